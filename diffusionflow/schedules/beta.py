"""Schedules with a linear noise rate beta(t): VP and sub-VP."""

import math

from jax import Array
from jax.typing import ArrayLike

from diffusionflow import _xp as xp
from diffusionflow._dataclass import check_positive, register
from diffusionflow._numeric import floating, root
from diffusionflow.schedules.base import Schedule


@register
class LinearBeta(Schedule):
    """Variance preserving, `beta(t) = beta_min + (beta_max - beta_min) t`.

    `alpha = exp(-B / 2)`, `sigma = sqrt(-expm1(-B))`,
    `B(t) = beta_min t + (beta_max - beta_min) t^2 / 2`, `logsnr = -log expm1(B)`.

    Args:
      beta_min: noise rate at t = 0, positive.
      beta_max: noise rate at t = 1, positive.

    Raises:
      ValueError: a rate is not positive.

    Source: Song et al. 2021, arXiv 2011.13456, the VP SDE; the continuous limit of the
    schedule of Ho et al. 2020, arXiv 2006.11239.
    """

    beta_min: float | Array = 0.1
    beta_max: float | Array = 20.0
    family = "vp"

    def __post_init__(self) -> None:
        _check_rates(self.beta_min, self.beta_max)

    def alpha(self, t: ArrayLike) -> Array:
        return xp.exp(-_integral(self, t) / 2)

    def sigma(self, t: ArrayLike) -> Array:
        return root(-xp.expm1(-_integral(self, t)))

    def logsnr(self, t: ArrayLike) -> Array:
        integral = _integral(self, t)
        return -integral - xp.log(-xp.expm1(-integral))

    def inverse_logsnr(self, logsnr: ArrayLike) -> Array:
        integral = xp.softplus(-floating(logsnr))
        return _inverse_integral(self, integral)

    def derivatives(self, t: ArrayLike) -> tuple[Array, Array]:
        beta, alpha = _rate(self, t), self.alpha(t)
        return -beta * alpha / 2, beta * alpha**2 / (2 * self.sigma(t))

    def square_derivatives(self, t: ArrayLike) -> tuple[Array, Array]:
        rate = _rate(self, t) * self.alpha(t) ** 2
        return -rate, rate

    def f(self, t: ArrayLike) -> Array:
        return -_rate(self, t) / 2

    def g2(self, t: ArrayLike) -> Array:
        return _rate(self, t)

    def dlogsnr_dt(self, t: ArrayLike) -> Array:
        return _rate(self, t) / xp.expm1(-_integral(self, t))


@register
class SubVP(Schedule):
    """Sub-VP: the alpha of `LinearBeta` with less noise, `sigma = 1 - alpha^2`.

    `alpha = exp(-B / 2)`, `sigma = -expm1(-B)` with the `B(t)` of `LinearBeta`, so
    `logsnr = -B - 2 log(1 - e^(-B))`, `f = -beta / 2`, `g^2 = beta (1 - e^(-2 B))`.

    Args:
      beta_min: noise rate at t = 0, positive.
      beta_max: noise rate at t = 1, positive.

    Raises:
      ValueError: a rate is not positive.

    Source: Song et al. 2021, arXiv 2011.13456, the sub-VP SDE.
    """

    beta_min: float | Array = 0.1
    beta_max: float | Array = 20.0

    def __post_init__(self) -> None:
        _check_rates(self.beta_min, self.beta_max)

    def alpha(self, t: ArrayLike) -> Array:
        return xp.exp(-_integral(self, t) / 2)

    def sigma(self, t: ArrayLike) -> Array:
        return -xp.expm1(-_integral(self, t))

    def logsnr(self, t: ArrayLike) -> Array:
        integral = _integral(self, t)
        return -integral - 2 * xp.log(-xp.expm1(-integral))

    def inverse_logsnr(self, logsnr: ArrayLike) -> Array:
        # alpha / (1 - alpha^2) = snr^(1/2): B = 2 asinh(e^y), of which e^y may overflow
        y = -floating(logsnr) / 2 - math.log(2.0)
        integral = 2 * xp.logaddexp(y, xp.softplus(2 * y) / 2)
        return _inverse_integral(self, integral)

    def derivatives(self, t: ArrayLike) -> tuple[Array, Array]:
        beta, alpha = _rate(self, t), self.alpha(t)
        return -beta * alpha / 2, beta * alpha**2

    def f(self, t: ArrayLike) -> Array:
        return -_rate(self, t) / 2


def _check_rates(beta_min: float | Array, beta_max: float | Array) -> None:
    check_positive("beta_min", beta_min)
    check_positive("beta_max", beta_max)


def _rate(schedule: LinearBeta | SubVP, t: ArrayLike) -> Array:
    slope = schedule.beta_max - schedule.beta_min
    return schedule.beta_min + slope * floating(t)


def _integral(schedule: LinearBeta | SubVP, t: ArrayLike) -> Array:
    """Computes the integral of the rate from 0 to `t`."""
    t = floating(t)
    slope = schedule.beta_max - schedule.beta_min
    return schedule.beta_min * t + slope * t**2 / 2


def _inverse_integral(schedule: LinearBeta | SubVP, integral: Array) -> Array:
    """Finds the time at which the rate's integral has a value; inf where that is inf.

    The integral of a falling rate has a largest value, soon after t = 1: from t = 1 on
    it is extrapolated linearly.
    """
    low, high = schedule.beta_min, schedule.beta_max
    slope, total = high - low, (low + high) / 2  # `total` is the integral up to 1
    finite = xp.isfinite(slope * integral) & xp.isfinite(integral)
    integral = xp.where(finite, integral, total)
    past = (slope < 0) & (integral > total)
    within = xp.where(past, total, integral)
    t = 2 * within / (low + xp.sqrt(low**2 + 2 * slope * within))
    t = xp.where(past, 1 + (integral - total) / high, t)
    return xp.where(finite, t, xp.inf)
