"""Adaptive importance sampling: a proposal that learns where the loss is large.

The variance of an importance-weighted mean is least where times are sampled with a
density proportional to `base * sqrt(E[loss^2 | t])`. That second moment is estimated in
bins of log-SNR while training; the proposal may change from step to step, since the
importance weights hold for whichever it is.
"""

import dataclasses
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from diffusionflow import _xp as xp
from diffusionflow._dataclass import (
    check_below,
    check_bound,
    check_count,
    register,
    static,
)
from diffusionflow._numeric import cast, floating, in_type_of
from diffusionflow.schedules import Schedule
from diffusionflow.times.densities import InverseTransform
from diffusionflow.times.derived import Stratified


class LossMoments(NamedTuple):
    """State of `AdaptiveTimes`: decaying sums by bin of log-SNR, from the data end.

    Fields:
      count: examples, float32 [num_bins].
      square: their squared losses, not importance-weighted, float32 [num_bins].
    """

    count: Array  # type: ignore[assignment]
    square: Array


@register
class AdaptiveTimes(InverseTransform):
    """Adaptive proposal: `base * (b + (1 - b) r_k / R)` in bin k of the log-SNR.

    `r_k` is the root of the second moment of the loss in bin k, `R` its mean over the
    base, so the density integrates to 1 whatever `r` is. Within a bin times are
    distributed as in `base`, and importance weights against `base` never exceed
    `1 / base_fraction`. The outer bins take what lies beyond the range. A bin that was
    never visited has the mean second moment; before the first update all is `base`.

    Args:
      base: the density to be adapted, usually the times of the objective; not
        stratified (`Stratified(AdaptiveTimes(...))` is).
      logsnr_min: lower end of the range that is cut into equal bins.
      logsnr_max: upper end.
      num_bins: at least 1.
      base_fraction: weight b of `base` in the mixture, in (0, 1].
      decay: of the sums of a bin at each step that visits it, in [0, 1).
      moments: learned state; None before the first update.

    Raises:
      ValueError: a value is out of its bounds, or `base` is stratified.
    """

    base: Any
    logsnr_min: float | Array = -10.0
    logsnr_max: float | Array = 10.0
    num_bins: int = static(default=20)
    base_fraction: float | Array = 0.2
    decay: float | Array = 0.99
    moments: Any = None

    def __post_init__(self) -> None:
        check_below("logsnr_min", self.logsnr_min, "logsnr_max", self.logsnr_max)
        check_count("num_bins", self.num_bins)
        check_bound(
            "base_fraction", self.base_fraction, lambda part: 0 < part <= 1, "in (0, 1]"
        )
        check_bound("decay", self.decay, lambda decay: 0 <= decay < 1, "in [0, 1)")
        if isinstance(self.base, Stratified):
            raise ValueError(
                f"base={self.base!r}: adapted, its times would be independent; "
                "write Stratified(AdaptiveTimes(...))"
            )

    def init(self) -> LossMoments:
        """Makes the initial moments, of no examples."""
        zeros = jnp.zeros(self.num_bins, jnp.float32)
        return LossMoments(count=zeros, square=zeros)

    def update(
        self, moments: LossMoments, terms: Any, *, schedule: Schedule
    ) -> LossMoments:
        """Updates the moments with a batch sampled from this density with `moments`.

        Args:
          moments: before.
          terms: `losses.Terms` of the batch; of the complete one, for the same result
            on every number of devices.
          schedule: that of the objective.

        Returns:
          Moments with the visited bins updated. An example whose squared loss is not
          finite is ignored: it would never decay.
        """
        place = self._bin(terms.logsnr).reshape(-1)
        ratio = with_moments(self, moments)._ratio(schedule)
        (ratio,) = in_type_of(terms.loss, [ratio])
        loss = terms.loss.reshape(-1) * ratio[place]  # times over base instead of this
        second = loss**2
        bins = jnp.arange(self.num_bins, dtype=place.dtype)
        member = place[:, None] == bins[None]
        member = member & xp.isfinite(second)[:, None]
        count = member.sum(0, dtype=moments.count.dtype)
        square = xp.where(member, second[:, None], 0).sum(0)
        keep = xp.where(count > 0, self.decay, 1).astype(count.dtype)
        return LossMoments(
            count=keep * moments.count + count,
            square=keep * moments.square + square.astype(count.dtype),
        )

    def quantile(self, u: ArrayLike, *, schedule: Schedule) -> Array:
        """Finds the inverse CDF: that of `base` at a piecewise linear map of `u`."""
        u = floating(u)
        base, mass, ends = in_type_of(u, self._bins(schedule))
        place = xp.clip(xp.searchsorted(ends, u), 0, self.num_bins - 1)
        inside = (u - (ends - mass)[place]) / xp.where(mass > 0, mass, 1)[place]
        before = (xp.cumsum(base) - base)[place]
        fraction = before + base[place] * xp.clip(inside, 0, 1)
        return self.base.quantile(fraction, schedule=schedule)

    def cdf(self, t: ArrayLike, *, schedule: Schedule) -> Array:
        """Computes the CDF: the fraction of times below `t`, of the shape of `t`."""
        t = floating(t)
        base, mass, ends = in_type_of(t, self._bins(schedule))
        (ratio,) = in_type_of(t, [self._ratio(schedule)])
        place = self._bin(schedule.logsnr(t))
        before = (xp.cumsum(base) - base)[place]
        inside = (self.base.cdf(t, schedule=schedule) - before) * ratio[place]
        return (ends - mass)[place] + xp.clip(inside, 0, mass[place])

    def density(self, t: ArrayLike, *, schedule: Schedule) -> Array:
        """Computes the density of the times, as the class says; of the shape of `t`."""
        t = floating(t)
        place = self._bin(schedule.logsnr(t))
        (ratio,) = in_type_of(t, [self._ratio(schedule)])
        return self.base.density(t, schedule=schedule) * ratio[place]

    def _bin(self, logsnr: Array) -> Array:
        """Numbers the bin, from the data end; the outer ones reach to infinity."""
        width = (self.logsnr_max - self.logsnr_min) / self.num_bins
        place = xp.floor((self.logsnr_max - logsnr) / width)
        return xp.clip(place, 0, self.num_bins - 1).astype(np.int32)

    def _base_mass(self, schedule: Schedule) -> Array:
        """Computes the probability of each bin under `base`, `[num_bins]`."""
        inner = xp.linspace(self.logsnr_max, self.logsnr_min, self.num_bins + 1)[1:-1]
        edges = self.base.cdf(
            xp.clip(schedule.inverse_logsnr(inner), 0, 1), schedule=schedule
        )
        zero, one = np.split(np.arange(2, dtype=edges.dtype), 2)
        return xp.diff(xp.concatenate([zero, edges, one]))

    def _ratio(self, schedule: Schedule) -> Array:
        """Computes the density over that of `base` in each bin, `[num_bins]`."""
        base = self._base_mass(schedule)
        if self.moments is None:
            return xp.ones_like(base)
        count, square = (cast(part, base) for part in self.moments)
        mean = square.sum() / xp.maximum(count.sum(), 1)
        visited = count > 0
        second = xp.where(visited, square / xp.where(visited, count, 1), mean)
        root = xp.sqrt(second)
        mean_root = xp.sum(base * root)
        usable = mean_root > 0  # not before the first update, nor for a loss of zero
        learned = xp.where(usable, root / xp.where(usable, mean_root, 1), 1)
        return self.base_fraction + (1 - self.base_fraction) * learned

    def _bins(self, schedule: Schedule) -> tuple[Array, Array, Array]:
        """Computes mass of `base`, mass and end of each bin by time, `[num_bins]`."""
        base = self._base_mass(schedule)
        mass = base * self._ratio(schedule)
        return base, mass, xp.cumsum(mass)


def adaptive_part(density: Any) -> AdaptiveTimes | None:
    """Finds the `AdaptiveTimes` that a density is or is made from; None without one.

    Args:
      density: any density of times.
    """
    if isinstance(density, AdaptiveTimes):
        return density
    return adaptive_part(density.base) if hasattr(density, "base") else None


def with_moments(density: Any, moments: LossMoments | None) -> Any:
    """Replaces the moments in the `AdaptiveTimes` of `density`; itself if it has none.

    Args:
      density: any density of times.
      moments: those of the result.
    """
    if isinstance(density, AdaptiveTimes):
        return dataclasses.replace(density, moments=moments)
    if adaptive_part(density) is None:
        return density
    return dataclasses.replace(density, base=with_moments(density.base, moments))
