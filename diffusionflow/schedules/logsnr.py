"""Variance preserving schedules given by their log-SNR."""

from jax import Array
from jax.typing import ArrayLike

from diffusionflow import _xp as xp
from diffusionflow._dataclass import (
    check_below,
    check_bound,
    check_positive,
    is_finite,
    register,
)
from diffusionflow._numeric import floating
from diffusionflow.schedules.base import FromLogSNR, FromSquares


@register
class LinearLogSNR(FromLogSNR):
    """Linear log-SNR, `logsnr_max + (logsnr_min - logsnr_max) t`, variance preserving.

    Args:
      logsnr_min: log-SNR at t = 1, finite.
      logsnr_max: log-SNR at t = 0, finite.

    Raises:
      ValueError: not -inf < logsnr_min < logsnr_max < inf.

    Source: Kingma et al. 2021, arXiv 2107.00630, the fixed linear schedule (gamma there
    is -logsnr), with the paper's initial end points as defaults.
    """

    logsnr_min: float | Array = -5.0
    logsnr_max: float | Array = 13.3

    def __post_init__(self) -> None:
        check_finite_range(self.logsnr_min, self.logsnr_max)

    def logsnr(self, t: ArrayLike) -> Array:
        t = floating(t)
        return self.logsnr_max * (1 - t) + self.logsnr_min * t

    def inverse_logsnr(self, logsnr: ArrayLike) -> Array:
        width = self.logsnr_max - self.logsnr_min
        return (self.logsnr_max - floating(logsnr)) / width

    def dlogsnr_dt(self, t: ArrayLike) -> Array:
        one = xp.ones_like(floating(t))
        return (self.logsnr_min - self.logsnr_max) * one


@register
class Laplace(FromSquares):
    """Laplace log-SNR distribution at uniform t; variance preserving.

    `logsnr = mean - scale sgn(1/2 - t) log(1 - 2 |t - 1/2|)`, infinite at both ends.
    With `w = 1 - 2 |t - 1/2|` and `m = e^mean` (e^-mean for t > 1/2), the smaller of
    alpha^2 and sigma^2 is `w^scale / (m + w^scale)`: alpha and sigma are finite at the
    ends, their derivatives are infinite there for a scale below 1 and 2.

    Args:
      mean: of the log-SNR, its value at t = 1/2.
      scale: of the distribution, positive.

    Raises:
      ValueError: `scale` is not positive.

    Source: Hang et al. 2024, arXiv 2407.03297, the Laplace noise schedule.
    """

    mean: float | Array = 0.0
    scale: float | Array = 0.5

    def __post_init__(self) -> None:
        check_bound("mean", self.mean, is_finite, "finite")
        check_positive("scale", self.scale)

    def _parts(self, t: ArrayLike) -> tuple[Array, Array, Array, Array]:
        """Returns whether t is in the data's half, `w`, `m` and `m + w^scale`."""
        t = floating(t)
        half, width = t < 0.5, 2 * xp.minimum(t, 1 - t)
        level = xp.exp(xp.where(half, self.mean, -self.mean))
        return half, width, level, level + width**self.scale

    def _power(self, width: Array, factor: float) -> Array:
        """Computes `scale w^(factor scale - 1)`."""
        return self.scale * width ** (factor * self.scale - 1)

    def squares(self, t: ArrayLike) -> tuple[Array, Array]:
        """Computes `(alpha^2, sigma^2)`."""
        half, width, level, total = self._parts(t)
        large, small = level / total, width**self.scale / total
        return xp.where(half, large, small), xp.where(half, small, large)

    def logsnr(self, t: ArrayLike) -> Array:
        half, width, _, _ = self._parts(t)
        return self.mean + xp.where(half, -self.scale, self.scale) * xp.log(width)

    def inverse_logsnr(self, logsnr: ArrayLike) -> Array:
        depth = (floating(logsnr) - self.mean) / self.scale
        tail = xp.exp(-xp.abs(depth)) / 2
        return xp.where(depth > 0, tail, 1 - tail)

    def derivatives(self, t: ArrayLike) -> tuple[Array, Array]:
        half, width, level, total = self._parts(t)
        gentle = xp.sqrt(level) * self._power(width, 1) / total**1.5
        steep = level * self._power(width, 0.5) / total**1.5
        return -xp.where(half, gentle, steep), xp.where(half, steep, gentle)

    def square_derivatives(self, t: ArrayLike) -> tuple[Array, Array]:
        _, width, level, total = self._parts(t)
        rate = 2 * level * self._power(width, 1) / total**2
        return -rate, rate

    def g2(self, t: ArrayLike) -> Array:
        half, width, level, total = self._parts(t)
        late = self.scale * level / width
        return 2 * xp.where(half, self._power(width, 1), late) / total

    def dlogsnr_dt(self, t: ArrayLike) -> Array:
        return -2 * self.scale / self._parts(t)[1]


@register
class Cauchy(FromLogSNR):
    """Cauchy log-SNR distribution at uniform t; variance preserving.

    `logsnr = mean + scale tan((pi / 2) (1 - 2 t))`, infinite at both ends.

    Args:
      mean: median of the log-SNR, its value at t = 1/2.
      scale: of the distribution, positive.

    Raises:
      ValueError: `scale` is not positive.

    Source: Hang et al. 2024, arXiv 2407.03297, the Cauchy noise schedule.
    """

    mean: float | Array = 0.0
    scale: float | Array = 1.0

    def __post_init__(self) -> None:
        check_bound("mean", self.mean, is_finite, "finite")
        check_positive("scale", self.scale)

    def alpha(self, t: ArrayLike) -> Array:
        inside, middle, late = _inside(t)
        return xp.where(inside, super().alpha(middle), 1 - late)

    def sigma(self, t: ArrayLike) -> Array:
        inside, middle, late = _inside(t)
        return xp.where(inside, super().sigma(middle), late)

    def logsnr(self, t: ArrayLike) -> Array:
        t = floating(t)
        cos, sin = xp.sin(xp.pi * (0.5 - t)), _sin_pi(t)
        return self.mean + self.scale * cos / sin

    def inverse_logsnr(self, logsnr: ArrayLike) -> Array:
        depth = (floating(logsnr) - self.mean) / self.scale
        return xp.arctan2(xp.ones_like(depth), depth) / xp.pi

    def dlogsnr_dt(self, t: ArrayLike) -> Array:
        return -self.scale * xp.pi / _sin_pi(floating(t)) ** 2


def _inside(t: ArrayLike) -> tuple[Array, Array, Array]:
    """Returns whether 0 < t < 1, `t` or 1/2 in its place, and the nearer end."""
    t = floating(t)
    inside = (t > 0) & (t < 1)
    return inside, xp.where(inside, t, 0.5), xp.round(t)


def _sin_pi(t: Array) -> Array:
    """Computes `sin(pi t)`, exactly 0 at both ends of [0, 1]."""
    return xp.sin(xp.pi * xp.minimum(t, 1 - t))


def check_finite_range(logsnr_min: float | Array, logsnr_max: float | Array) -> None:
    """Raises a `ValueError` unless -inf < logsnr_min < logsnr_max < inf."""
    check_bound("logsnr_min", logsnr_min, is_finite, "finite")
    check_bound("logsnr_max", logsnr_max, is_finite, "finite")
    check_below("logsnr_min", logsnr_min, "logsnr_max", logsnr_max)
