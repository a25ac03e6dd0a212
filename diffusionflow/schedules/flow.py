"""The flow matching (rectified flow) schedule: straight paths."""

from jax import Array
from jax.typing import ArrayLike

from diffusionflow import _xp as xp
from diffusionflow._dataclass import check_bound, register
from diffusionflow._numeric import floating
from diffusionflow.schedules.base import Schedule


@register
class FlowMatching(Schedule):
    """Flow matching: straight paths, `alpha = 1 - t`, `sigma = sigma_min (1 - t) + t`.

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

    sigma_min: float | Array = 0.0
    family = "flow"

    def __post_init__(self) -> None:
        inside = lambda low: 0 <= low < 1
        check_bound("sigma_min", self.sigma_min, inside, "in [0, 1)")

    def alpha(self, t: ArrayLike) -> Array:
        return 1 - floating(t)

    def sigma(self, t: ArrayLike) -> Array:
        t = floating(t)
        return self.sigma_min * (1 - t) + t

    def logsnr(self, t: ArrayLike) -> Array:
        return 2 * (xp.log1p(-floating(t)) - xp.log(self.sigma(t)))

    def inverse_logsnr(self, logsnr: ArrayLike) -> Array:
        half = floating(logsnr) / 2
        low = self.sigma_min * xp.sigmoid(half)
        return (xp.sigmoid(-half) - low) / (1 - low)

    def derivatives(self, t: ArrayLike) -> tuple[Array, Array]:
        one = xp.ones_like(floating(t))
        return -one, one - self.sigma_min
