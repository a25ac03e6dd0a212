"""The monotone variant of a total weight."""

from typing import Any

from jax import Array
from jax.typing import ArrayLike

from diffusionflow import _xp as xp
from diffusionflow._dataclass import check_below, check_count, register, static
from diffusionflow._numeric import floating, in_float64, in_type_of
from diffusionflow.predictions import Kind
from diffusionflow.schedules import Schedule
from diffusionflow.weightings.base import Weighting, weight_on, weight_on_eps
from diffusionflow.weightings.logsnr import ELBO


@register
class Monotone(Weighting):
    """Monotone (non-increasing) variant of a weighting: `W = max_{l' >= l} W_base(l')`.

    W_base includes the density of times, so that is an argument; the objective's own
    times must be the same, and `Objective` refuses others. The total weight is flat on
    the noisy side of the peak and unchanged on the other: a mixture of variational
    bounds (ELBOs) of noised data. Written on the v-MSE, the factor is `W / density`
    times that of `ELBO` where the maximum is elsewhere, and the base's own where it is
    not. Where the times have density 0 there is nothing to weigh and the factor is 0.

    The maximum is taken at `logsnr` itself and at evenly spaced log-SNRs above it, so
    its relative error is of the order of their squared distance (3e-6 at the default
    on EDM's weight).

    Args:
      base: any weighting.
      times: time (noise-level) distribution of training.
      logsnr_min: lower end of the search.
      logsnr_max: upper end; above it W_base is left as it is.
      num_points: of the search, at least 2.

    Raises:
      ValueError: fewer than two points, or `logsnr_min >= logsnr_max`.

    Source: Kingma and Gao 2023, arXiv 2303.00848, monotonic weighting.
    """

    base: Any
    times: Any
    logsnr_min: float | Array = -10.0
    logsnr_max: float | Array = 10.0
    num_points: int = static(default=2001)

    def __post_init__(self) -> None:
        check_count("num_points", self.num_points, 2)
        check_below("logsnr_min", self.logsnr_min, "logsnr_max", self.logsnr_max)

    @property
    def kind(self) -> Kind:
        return Kind("v")

    def __call__(self, t: ArrayLike, *, schedule: Schedule) -> Array:
        t = floating(t)
        density = self.times.density(t, schedule=schedule)
        used = density != 0
        t = xp.where(used, t, 0.5)
        own = weight_on(self.base, self.kind, t, schedule=schedule)
        above = self._above(t, schedule)
        # beyond logsnr_max nothing is above, and ELBO's factor may be infinite
        level = above * ELBO()(xp.where(above > 0, t, 0.5), schedule=schedule)
        flat = used & (above > 0) & (level >= own * density)
        factor = xp.where(flat, level / xp.where(flat, density, 1), own)
        return xp.where(used, factor, 0)

    def _above(self, t: Array, schedule: Schedule) -> Array:
        """Finds the largest weight of the base at points above the log-SNR of `t`."""
        points, peaks = in_float64(_peaks, self, schedule)
        points, peaks = in_type_of(t, (points, peaks))
        place = xp.searchsorted(points, schedule.logsnr(t))
        peak = xp.take(peaks, xp.minimum(place, peaks.size - 1))
        return xp.where(place < points.size, peak, 0)


def _peaks(monotone: Monotone, schedule: Schedule) -> tuple[Array, Array]:
    """Computes log-SNRs, rising, and the base's largest weight at or above each."""
    points = xp.linspace(monotone.logsnr_min, monotone.logsnr_max, monotone.num_points)
    t = schedule.inverse_logsnr(points)
    weight = weight_on_eps(monotone.base, monotone.times, t, schedule=schedule)
    return points, xp.reversed_cummax(weight)
