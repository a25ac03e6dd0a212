"""Coefficients of SDEs from those of stochastic interpolants, and back."""

from typing import NamedTuple

from jax import Array
from jax.typing import ArrayLike

from diffusionflow import _xp as xp
from diffusionflow._numeric import cast, root
from diffusionflow.schedules import Schedule, as_schedule


class Sde(NamedTuple):
    """SDE coefficients: `dz = f z dt + g dw` and its reversal, like `t` each.

    Fields:
      f: drift coefficient, `alpha' / alpha`.
      g: diffusion coefficient, at least 0.
      eta: diffusion of the reversal over g.
    """

    f: Array
    g: Array
    eta: Array


class Interpolant(NamedTuple):
    """Interpolant coefficients: `z = alpha x + sigma eps` and epsilon, like `t` each.

    Fields:
      alpha: coefficient of the data.
      sigma: coefficient of the noise.
      epsilon: diffusion of the generative SDE, `eta g`.
    """

    alpha: Array
    sigma: Array
    epsilon: Array


@xp.quiet
def to_sde(t: ArrayLike, *, schedule: Schedule, epsilon: ArrayLike = 0.0) -> Sde:
    """Converts a schedule to SDE coefficients: `f`, `g` and `eta = epsilon / g` at `t`.

    Args:
      t: times in [0, 1], any shape.
      schedule: any.
      epsilon: diffusion of the generative process, scalar or of the shape of `t`.

    Returns:
      `Sde`. Where alpha = 0, g is infinite and eta is 0; where g = 0, eta is infinite
      but for epsilon = 0, where it is 0.
    """
    g = root(as_schedule(schedule).g2(t))
    epsilon = xp.broadcast_to(cast(epsilon, g), g.shape)
    some = epsilon != 0
    eta = xp.where(some, epsilon / xp.where(some, g, 1), 0)
    return Sde(schedule.f(t), g, eta)


@xp.quiet
def to_interpolant(
    t: ArrayLike, *, schedule: Schedule, eta: ArrayLike = 0.0
) -> Interpolant:
    """Converts a schedule to interpolant `alpha`, `sigma` and `epsilon = eta g` at `t`.

    For an SDE given by its coefficients, the schedule is `from_sde(f_fn, g_fn)`.

    Args:
      t: times in [0, 1], any shape.
      schedule: any.
      eta: noise of the generative process relative to g: 0 the probability flow, 1 the
        reversal of the forward SDE. Scalar or of the shape of `t`.

    Returns:
      `Interpolant`.
    """
    g = root(as_schedule(schedule).g2(t))
    eta = xp.broadcast_to(cast(eta, g), g.shape)
    return Interpolant(schedule.alpha(t), schedule.sigma(t), scaled(eta, g))


def scaled(factor: Array, value: Array) -> Array:
    """Computes `factor * value`, 0 where the factor is, for infinite values too."""
    some = factor != 0
    return factor * xp.where(some, value, 0)
