"""Straight paths."""

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from diffusionflow._dataclass import check_bound, register
from diffusionflow._numeric import at_least_float32


@register
class FlowMatching:
    """Straight paths: `alpha = 1 - t`, `sigma = sigma_min (1 - t) + t`.

    `logsnr = 2 log(alpha / sigma)`. With `sigma_min = 0` also called rectified flow and
    conditional optimal transport: `sigma = t`.

    Args:
      sigma_min: sigma at t = 0, in [0, 1).

    Raises:
      ValueError: `sigma_min` is outside.

    Source: Lipman et al. 2022, arXiv 2210.02747, eq. 20 with the time reversed; Liu et
    al. 2022, arXiv 2209.03003.

    Example:
      >>> schedule = FlowMatching()
      >>> print(schedule.alpha(0.25), schedule.sigma(0.25))
      0.75 0.25
      >>> print(schedule.inverse_logsnr(0.0))  # as much data as noise
      0.5
    """

    sigma_min: float = 0.0
    family = "flow"

    def __post_init__(self) -> None:
        inside = lambda low: 0 <= low < 1
        check_bound("sigma_min", self.sigma_min, inside, "in [0, 1)")

    def alpha(self, t: ArrayLike) -> Array:
        return 1 - at_least_float32(t)

    def sigma(self, t: ArrayLike) -> Array:
        t = at_least_float32(t)
        return self.sigma_min * (1 - t) + t

    def logsnr(self, t: ArrayLike) -> Array:
        return 2 * (jnp.log1p(-at_least_float32(t)) - jnp.log(self.sigma(t)))

    def inverse_logsnr(self, logsnr: ArrayLike) -> Array:
        half = at_least_float32(logsnr) / 2
        low = self.sigma_min * jax.nn.sigmoid(half)
        return (jax.nn.sigmoid(-half) - low) / (1 - low)

    def derivatives(self, t: ArrayLike) -> tuple[Array, Array]:
        """See the function `derivatives`."""
        one = jnp.ones_like(at_least_float32(t))
        return -one, one - self.sigma_min
