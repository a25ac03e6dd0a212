"""Parametrises the probability-flow ODE by the angle `atan2(sigma, alpha)`.

The angle goes from 0 (data) to pi / 2 (noise), and the state is
`y = z / sqrt(alpha^2 + sigma^2)`, whose slope is v / sqrt(alpha^2 + sigma^2). Of the
variables in `variables` it is the one that is finite and smooth at both ends on every
schedule: the clocks of x and eps are infinite at one end, and dz/dt is where a schedule
has an infinite derivative, such as sigma' at t = 0 of `LinearBeta`.
"""

from typing import NamedTuple

from jax import Array

from diffusionflow import _xp as xp
from diffusionflow.predictions import DenoiseFn
from diffusionflow.schedules import Schedule


class Level(NamedTuple):
    """Noise level, as a point on the arc of (alpha, sigma); arrays of one shape.

    Fields:
      t: its time.
      cos: of its angle, `alpha / length`.
      sin: of its angle, `sigma / length`.
      length: `sqrt(alpha^2 + sigma^2)`.
    """

    t: Array
    cos: Array
    sin: Array
    length: Array


def angle(t: Array, *, schedule: Schedule) -> tuple[Array, Array]:
    """Returns the angle and the length at time `t`."""
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    return xp.arctan2(sigma, alpha), xp.hypot(alpha, sigma)


def level(place: Array, t0: Array, t1: Array, *, schedule: Schedule) -> Level:
    """Returns the level at angle `place`, between times `t0` and `t1`.

    Args:
      place: an angle, any shape, between those of `t0` and `t1`.
      t0: scalar.
      t1: scalar.
      schedule: any.

    Returns:
      `Level`, whose time is exactly that of an end at the angle of the end.
    """
    (start, _), (end, _) = angle(t0, schedule=schedule), angle(t1, schedule=schedule)
    # by rounding only: an angle may be computed to lie beyond its end
    place = xp.clip(place, xp.minimum(start, end), xp.maximum(start, end))
    first, last = place == start, place == end
    inside = xp.where(first | last, (start + end) / 2, place)
    log_ratio = xp.log(xp.cos(inside)) - xp.log(xp.sin(inside))
    earliest, latest = xp.minimum(t0, t1), xp.maximum(t0, t1)
    t = xp.clip(schedule.inverse_logsnr(2 * log_ratio), earliest, latest)
    t = xp.where(first, t0, xp.where(last, t1, t))
    _, length = angle(t, schedule=schedule)
    return Level(t, xp.cos(place), xp.sin(place), length)


def slope(denoise_fn: DenoiseFn, y: Array, at: Level) -> Array:
    """Returns `dy / dangle = cos eps_hat - sin x_hat`, like `y`; `at` is scalar."""
    at = Level(*(part.astype(y.dtype) for part in at))
    denoised = denoise_fn(y * at.length, at.t)
    return at.cos * denoised.eps - at.sin * denoised.x
