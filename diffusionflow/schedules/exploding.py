"""Variance exploding schedules: `alpha = 1`."""

from jax import Array
from jax.typing import ArrayLike

from diffusionflow import _xp as xp
from diffusionflow._dataclass import check_below, check_positive, register
from diffusionflow._numeric import floating, in_type_of
from diffusionflow.schedules.base import Schedule


def _check_levels(sigma_min: float | Array, sigma_max: float | Array) -> None:
    check_positive("sigma_min", sigma_min)
    check_positive("sigma_max", sigma_max)
    check_below("sigma_min", sigma_min, "sigma_max", sigma_max)


@register
class VE(Schedule):
    """Variance exploding: `alpha = 1`, `sigma = sigma_min (sigma_max / sigma_min)^t`.

    The log-SNR is linear, `logsnr = -2 log sigma_min - 2 t log(sigma_max / sigma_min)`.

    Args:
      sigma_min: sigma at t = 0, positive, in units of the data.
      sigma_max: sigma at t = 1.

    Raises:
      ValueError: not 0 < sigma_min < sigma_max.

    Source: Song et al. 2021, arXiv 2011.13456, the VE SDE.
    """

    sigma_min: float | Array = 0.01
    sigma_max: float | Array = 50.0

    def __post_init__(self) -> None:
        _check_levels(self.sigma_min, self.sigma_max)

    def _logs(self, like: Array) -> tuple[Array, Array]:
        """Computes the logarithms of the two levels."""
        low, high = xp.log(self.sigma_min), xp.log(self.sigma_max)
        low, high = in_type_of(like, (low, high))
        return low, high

    def alpha(self, t: ArrayLike) -> Array:
        return xp.ones_like(floating(t))

    def sigma(self, t: ArrayLike) -> Array:
        return xp.exp(-self.logsnr(t) / 2)

    def logsnr(self, t: ArrayLike) -> Array:
        t = floating(t)
        low, high = self._logs(t)
        return -2 * (low * (1 - t) + high * t)

    def inverse_logsnr(self, logsnr: ArrayLike) -> Array:
        logsnr = floating(logsnr)
        low, high = self._logs(logsnr)
        return (-logsnr / 2 - low) / (high - low)

    def derivatives(self, t: ArrayLike) -> tuple[Array, Array]:
        low, high = self._logs(floating(t))
        sigma = self.sigma(t)
        return xp.zeros_like(sigma), (high - low) * sigma


@register
class EDM(Schedule):
    """EDM's levels over [0, 1]: `alpha = 1`, `sigma = (A_0 + t (A_1 - A_0))^rho`.

    `A_0 = sigma_min^(1 / rho)`, `A_1 = sigma_max^(1 / rho)`. A uniform grid of `t` is
    EDM's timestep schedule.

    Args:
      sigma_min: sigma at t = 0, positive, in units of the data.
      sigma_max: sigma at t = 1.
      rho: how much finer the steps are near the data, positive.

    Raises:
      ValueError: not 0 < sigma_min < sigma_max, or `rho` is not positive.

    Source: Karras et al. 2022, arXiv 2206.00364, eq. 5. There time is sigma itself.
    """

    sigma_min: float | Array = 0.002
    sigma_max: float | Array = 80.0
    rho: float | Array = 7.0

    def __post_init__(self) -> None:
        _check_levels(self.sigma_min, self.sigma_max)
        check_positive("rho", self.rho)

    def _base(self, t: ArrayLike) -> tuple[Array, Array]:
        """Computes `A_0 + t (A_1 - A_0)` and its slope."""
        t, power = floating(t), 1 / floating(self.rho)
        ends = floating(self.sigma_min) ** power, floating(self.sigma_max) ** power
        low, high = in_type_of(t, ends)
        return low * (1 - t) + high * t, high - low

    def alpha(self, t: ArrayLike) -> Array:
        return xp.ones_like(floating(t))

    def sigma(self, t: ArrayLike) -> Array:
        base, _ = self._base(t)
        return base**self.rho

    def logsnr(self, t: ArrayLike) -> Array:
        base, _ = self._base(t)
        return -2 * self.rho * xp.log(base)

    def inverse_logsnr(self, logsnr: ArrayLike) -> Array:
        logsnr = floating(logsnr)
        low, slope = self._base(xp.zeros_like(logsnr))
        base = xp.exp(-logsnr / (2 * self.rho))
        return (base - low) / slope

    def derivatives(self, t: ArrayLike) -> tuple[Array, Array]:
        base, slope = self._base(t)
        return xp.zeros_like(base), self.rho * slope * base ** (self.rho - 1)
