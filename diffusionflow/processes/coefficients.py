"""Coefficients of SDEs from those of interpolants, and the other way round."""

from typing import NamedTuple

from jax import Array
from jax.typing import ArrayLike

from diffusionflow import _xp as xp
from diffusionflow._numeric import root
from diffusionflow.schedules import Schedule


class Sde(NamedTuple):
    """Coefficients of `dz = f z dt + g dw` and of its reversal, like `t` each.

    Fields:
      f: `alpha' / alpha`.
      g: of the noise, at least 0.
      eta: noise of the reversal over g.
    """

    f: Array
    g: Array
    eta: Array


class Interpolant(NamedTuple):
    """`z = alpha x + sigma eps` and the diffusion of its SDE, like `t` each.

    Fields:
      alpha: coefficient of the data.
      sigma: coefficient of the noise.
      epsilon: diffusion of the generative SDE, `eta g`.
    """

    alpha: Array
    sigma: Array
    epsilon: Array


def to_sde(t: ArrayLike, *, schedule: Schedule, epsilon: ArrayLike = 0.0) -> Sde:
    """`f`, `g` and `eta = epsilon / g` of a schedule at times `t`.

    Args:
      t: times in [0, 1], any shape.
      schedule: any.
      epsilon: diffusion of the generative process, scalar or of the shape of `t`.

    Returns:
      `Sde`. Where alpha = 0, g is infinite and eta is 0; where g = 0, eta is infinite
      but for epsilon = 0, where it is 0.
    """
    g = root(schedule.g2(t))
    epsilon = xp.broadcast_to(xp.asarray(epsilon, g.dtype), g.shape)
    some = epsilon != 0
    eta = xp.where(some, epsilon / xp.where(some, g, 1), 0)
    return Sde(schedule.f(t), g, eta)


def to_interpolant(
    t: ArrayLike, *, schedule: Schedule, eta: ArrayLike = 0.0
) -> Interpolant:
    """`alpha`, `sigma` and `epsilon = eta g` of a schedule at times `t`.

    For an SDE given by its coefficients, the schedule is `from_sde(f_fn, g_fn)`.

    Args:
      t: times in [0, 1], any shape.
      schedule: any.
      eta: noise of the generative process relative to g: 0 the probability flow, 1 the
        reversal of the forward SDE. Scalar or of the shape of `t`.

    Returns:
      `Interpolant`.
    """
    g = root(schedule.g2(t))
    eta = xp.broadcast_to(xp.asarray(eta, g.dtype), g.shape)
    return Interpolant(schedule.alpha(t), schedule.sigma(t), scaled(eta, g))


def scaled(factor: Array, value: Array) -> Array:
    """`factor * value`, 0 where the factor is, for infinite values too."""
    some = factor != 0
    return factor * xp.where(some, value, 0)
