"""Time distributions built from others: truncated, stratified, and of two times."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from diffusionflow import _xp as xp
from diffusionflow import random
from diffusionflow._dataclass import check_below, check_bound, register
from diffusionflow._numeric import floating, in_type_of
from diffusionflow.schedules import Schedule
from diffusionflow.times.densities import InverseTransform, Uniform, check_window
from diffusionflow.times.noise_levels import check_mass


@register
class Truncated(InverseTransform):
    """Truncated time distribution: `base` in a window of times and of log-SNR.

    `base.density / mass` inside the window, 0 outside. The window is where t is in
    [t_min, t_max] and the log-SNR in [logsnr_min, logsnr_max].

    Args:
      base: a density with `cdf` and `quantile`.
      t_min: lower end, at least 0.
      t_max: upper end, at most 1.
      logsnr_min: lower bound of the log-SNR; -inf for none.
      logsnr_max: upper bound of the log-SNR; inf for none.

    Raises:
      ValueError: an empty window, or `base` is stratified or adaptive, which would be
        lost, write `Stratified(Truncated(...))`, `AdaptiveTimes(Truncated(...))`; and
        where the density is used, less than `LEAST_MASS` of a concrete one is left.
    """

    base: Any
    t_min: float | Array = 0.0
    t_max: float | Array = 1.0
    logsnr_min: float | Array = -xp.inf
    logsnr_max: float | Array = xp.inf

    def __post_init__(self) -> None:
        check_window(self.t_min, self.t_max)
        check_below("logsnr_min", self.logsnr_min, "logsnr_max", self.logsnr_max)
        if isinstance(self.base, Stratified):
            raise ValueError(
                f"base={self.base!r}: truncated, its times would be independent; "
                "write Stratified(Truncated(...))"
            )
        if hasattr(self.base, "moments"):
            raise ValueError(
                f"base={self.base!r}: truncated, it would learn on another scale than "
                "it samples; write AdaptiveTimes(Truncated(...))"
            )

    def _window(self, schedule: Schedule) -> tuple[Array, Array]:
        """Finds the first and the last time."""

        def at(level: ArrayLike, end: float) -> Array:
            bound = xp.isfinite(level)
            level = xp.where(bound, level, 0.0)  # a finite derivative in the schedule
            t = xp.clip(floating(schedule.inverse_logsnr(level)), 0, 1)
            return xp.where(bound, t, end)

        low, high = at(self.logsnr_max, 0.0), at(self.logsnr_min, 1.0)
        return xp.maximum(self.t_min, low), xp.minimum(self.t_max, high)

    def _fractions(self, schedule: Schedule) -> tuple[Array, Array]:
        """Computes `_share`; checks that the window keeps `LEAST_MASS` of the base."""
        check_mass(self, schedule, lambda density, on: density._share(on)[1])
        return self._share(schedule)

    def _share(self, schedule: Schedule) -> tuple[Array, Array]:
        """Computes the fraction of the base before the window, and inside it."""
        low, high = (
            self.base.cdf(end, schedule=schedule) for end in self._window(schedule)
        )
        return low, high - low

    def quantile(self, u: ArrayLike, *, schedule: Schedule) -> Array:
        """Finds the inverse CDF: the time below which a fraction `u` of times lies."""
        u = floating(u)
        low, mass = in_type_of(u, self._fractions(schedule))
        t = self.base.quantile(low + mass * u, schedule=schedule)
        return xp.clip(t, *in_type_of(t, self._window(schedule)))

    def cdf(self, t: ArrayLike, *, schedule: Schedule) -> Array:
        """Computes the CDF: the fraction of times below `t`, of the shape of `t`."""
        t = floating(t)
        low, mass = in_type_of(t, self._fractions(schedule))
        t = xp.clip(t, *in_type_of(t, self._window(schedule)))
        return (self.base.cdf(t, schedule=schedule) - low) / mass

    def density(self, t: ArrayLike, *, schedule: Schedule) -> Array:
        """Computes the density `base.density / mass` inside, 0 outside; like `t`."""
        t = floating(t)
        low, high = in_type_of(t, self._window(schedule))
        _, mass = in_type_of(t, self._fractions(schedule))
        inside = (low <= t) & (t <= high)
        return xp.where(inside, self.base.density(t, schedule=schedule) / mass, 0)


@register
class Stratified:
    """Stratified (low-discrepancy) times of `base`, evenly spread within the batch.

    Example i of n gets the quantile `(u + i / n) mod 1` with one `u` for the batch:
    each time alone has the density of `base`, and the mean over a batch varies less.
    The times depend on the entire batch by nature: with keys `[*batch]` the `u` comes
    from the first of them.

    Args:
      base: any density.

    Source: Kingma et al. 2021, arXiv 2107.00630, low-discrepancy sampler.
    """

    base: Any

    def sample(
        self, key: Array, shape: tuple[int, ...], *, schedule: Schedule
    ) -> Array:
        """Samples stratified times of `shape`, float32; `key` scalar or of `shape`."""
        count = int(np.prod(shape, dtype=np.int64))
        first = random.lattice(key if key.ndim == 0 else key.reshape(-1)[0], ())
        offsets = np.arange(count, dtype=np.uint64) * random.LATTICE // max(count, 1)
        number = (first + offsets.astype(np.uint32)) % np.uint32(random.LATTICE)
        return self.quantile(random.from_lattice(number), schedule=schedule).reshape(
            shape
        )

    def quantile(self, u: ArrayLike, *, schedule: Schedule) -> Array:
        """Finds the inverse CDF of each single time, that of `base`."""
        return self.base.quantile(u, schedule=schedule)

    def cdf(self, t: ArrayLike, *, schedule: Schedule) -> Array:
        """Computes the CDF of each single time, that of `base`."""
        return self.base.cdf(t, schedule=schedule)

    def density(self, t: ArrayLike, *, schedule: Schedule) -> Array:
        """Computes the density of each single time, that of `base`."""
        return self.base.density(t, schedule=schedule)


@register
class Two:
    """Pairs of times s <= t for flow maps: two draws, sorted, and some with s = t.

    Each example has s = t with probability `share`, by a draw of its own: which ones
    they are does not depend on their place in the batch. There t is the later of two
    draws as well.

    Args:
      times: density of both draws, such as `LogitNormal(-0.4, 1.0)`.
      share: of the pairs with s = t, the diagonal, in [0, 1].
      second: density of the second draw; None for that of the first.

    Raises:
      ValueError: `share` is outside.

    Source: Geng et al. 2025, arXiv 2505.13447, section on sampling time steps; there
    the first examples of a batch are those with s = t.

    Example:
      >>> import jax
      >>> from diffusionflow import schedules, times
      >>> flow = schedules.FlowMatching()
      >>> t, s = times.Two(share=0.25).sample(jax.random.key(0), (8,), schedule=flow)
      >>> bool((s <= t).all()), int((s == t).sum())
      (True, 2)
    """

    times: Any = Uniform()
    share: float | Array = 0.5
    second: Any = None

    def __post_init__(self) -> None:
        inside = lambda share: 0 <= share <= 1
        check_bound("share", self.share, inside, "in [0, 1]")

    def sample(
        self, key: Array, shape: tuple[int, ...], *, schedule: Schedule
    ) -> tuple[Array, Array]:
        """Samples `(t, s)` of `shape`, float32; `key` scalar or of `shape`."""
        keys = random.split(key, 3)
        densities = self.times, self.times if self.second is None else self.second
        one, other = (
            density.sample(key, shape, schedule=schedule)
            for density, key in zip(densities, keys, strict=False)
        )
        t, s = jnp.maximum(one, other), jnp.minimum(one, other)
        return t, jnp.where(random.uniform(keys[2], shape) < self.share, t, s)
