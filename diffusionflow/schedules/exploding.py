"""Variance exploding schedules: `alpha = 1`."""

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from diffusionflow._dataclass import check_below, check_positive, register
from diffusionflow._numeric import at_least_float32


def _check_levels(sigma_min: float, sigma_max: float) -> None:
    check_positive("sigma_min", sigma_min)
    check_positive("sigma_max", sigma_max)
    check_below("sigma_min", sigma_min, "sigma_max", sigma_max)


@register
class VE:
    """`alpha = 1`, `sigma = sigma_min (sigma_max / sigma_min)^t`.

    The log-SNR is linear, `logsnr = -2 log sigma_min - 2 t log(sigma_max / sigma_min)`.

    Args:
      sigma_min: sigma at t = 0, positive, in units of the data.
      sigma_max: sigma at t = 1.

    Raises:
      ValueError: not 0 < sigma_min < sigma_max.

    Source: Song et al. 2021, arXiv 2011.13456, the VE SDE.
    """

    sigma_min: float = 0.01
    sigma_max: float = 50.0

    def __post_init__(self) -> None:
        _check_levels(self.sigma_min, self.sigma_max)

    def _logs(self) -> tuple[Array, Array]:
        """The logarithms of the two levels."""
        low, high = at_least_float32(self.sigma_min), at_least_float32(self.sigma_max)
        return jnp.log(low), jnp.log(high)

    def alpha(self, t: ArrayLike) -> Array:
        return jnp.ones_like(at_least_float32(t))

    def sigma(self, t: ArrayLike) -> Array:
        return jnp.exp(-self.logsnr(t) / 2)

    def logsnr(self, t: ArrayLike) -> Array:
        t, (low, high) = at_least_float32(t), self._logs()
        return -2 * (low * (1 - t) + high * t)

    def inverse_logsnr(self, logsnr: ArrayLike) -> Array:
        low, high = self._logs()
        return (-at_least_float32(logsnr) / 2 - low) / (high - low)

    def derivatives(self, t: ArrayLike) -> tuple[Array, Array]:
        """See the function `derivatives`."""
        low, high = self._logs()
        sigma = self.sigma(t)
        return jnp.zeros_like(sigma), (high - low) * sigma


@register
class EDM:
    """`alpha = 1`, `sigma = (A_0 + t (A_1 - A_0))^rho`: EDM's sampling clock on [0, 1].

    `A_0 = sigma_min^(1 / rho)`, `A_1 = sigma_max^(1 / rho)`. A uniform grid of `t` is
    EDM's grid of noise levels.

    Args:
      sigma_min: sigma at t = 0, positive, in units of the data.
      sigma_max: sigma at t = 1.
      rho: how much finer the steps are near the data, positive.

    Raises:
      ValueError: not 0 < sigma_min < sigma_max, or `rho` is not positive.

    Source: Karras et al. 2022, arXiv 2206.00364, eq. 5. There time is sigma itself.
    """

    sigma_min: float = 0.002
    sigma_max: float = 80.0
    rho: float = 7.0

    def __post_init__(self) -> None:
        _check_levels(self.sigma_min, self.sigma_max)
        check_positive("rho", self.rho)

    def _base(self, t: ArrayLike) -> tuple[Array, Array]:
        """`A_0 + t (A_1 - A_0)` and its slope."""
        t, power = at_least_float32(t), 1 / at_least_float32(self.rho)
        low = at_least_float32(self.sigma_min) ** power
        high = at_least_float32(self.sigma_max) ** power
        return low * (1 - t) + high * t, high - low

    def alpha(self, t: ArrayLike) -> Array:
        return jnp.ones_like(at_least_float32(t))

    def sigma(self, t: ArrayLike) -> Array:
        base, _ = self._base(t)
        return base ** at_least_float32(self.rho)

    def logsnr(self, t: ArrayLike) -> Array:
        base, _ = self._base(t)
        return -2 * self.rho * jnp.log(base)

    def inverse_logsnr(self, logsnr: ArrayLike) -> Array:
        low, slope = self._base(0.0)
        base = jnp.exp(-at_least_float32(logsnr) / (2 * self.rho))
        return (base - low) / slope

    def derivatives(self, t: ArrayLike) -> tuple[Array, Array]:
        """See the function `derivatives`."""
        base, slope = self._base(t)
        power = at_least_float32(self.rho)
        return jnp.zeros_like(base), power * slope * base ** (power - 1)
