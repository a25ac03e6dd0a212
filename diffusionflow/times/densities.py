"""Densities of the time itself, and what can be made of any density."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.scipy.special import logit, ndtr, ndtri
from jax.typing import ArrayLike

from diffusionflow import random
from diffusionflow._dataclass import check_bound, register
from diffusionflow._numeric import at_least_float32
from diffusionflow.schedules import Schedule


class Independent:
    """What every density without memory shares: times by inverse transform."""

    def sample(self, key: Array, shape: tuple[int, ...], schedule: Schedule) -> Array:
        """Independent times of `shape`, float32; `key` scalar or of `shape`."""
        return self.quantile(random.uniform(key, shape), schedule)


@register
class Uniform(Independent):
    """Uniform on (t_min, t_max).

    Args:
      t_min: lower end, at least 0.
      t_max: upper end, at most 1.

    Raises:
      ValueError: not 0 <= t_min < t_max <= 1.
    """

    t_min: float = 0.0
    t_max: float = 1.0

    def __post_init__(self) -> None:
        _check_window(self.t_min, self.t_max)

    def quantile(self, u: ArrayLike, schedule: Schedule) -> Array:
        """The time below which a fraction `u` of the times lies."""
        del schedule
        return self.t_min + (self.t_max - self.t_min) * at_least_float32(u)

    def cdf(self, t: ArrayLike, schedule: Schedule) -> Array:
        """The fraction of the times below `t`, of the shape of `t`."""
        del schedule
        fraction = (at_least_float32(t) - self.t_min) / (self.t_max - self.t_min)
        return jnp.clip(fraction, 0, 1)

    def density(self, t: ArrayLike, schedule: Schedule) -> Array:
        """`1 / (t_max - t_min)` inside, 0 outside; of the shape of `t`."""
        del schedule
        t = at_least_float32(t)
        inside = (self.t_min <= t) & (t <= self.t_max)
        return jnp.where(inside, 1 / (self.t_max - self.t_min), jnp.zeros_like(t))


@register
class LogitNormal(Independent):
    """`logit(t) ~ N(mean, std^2)`, at any schedule.

    Args:
      mean: of the logit; positive towards the noise.
      std: of the logit, positive.

    Raises:
      ValueError: `std` is not positive.

    Source: Esser et al. 2024, arXiv 2403.03206, logit-normal sampling.
    """

    mean: float = 0.0
    std: float = 1.0

    def __post_init__(self) -> None:
        check_bound("std", self.std, lambda std: std > 0, "positive")

    def quantile(self, u: ArrayLike, schedule: Schedule) -> Array:
        """As `Uniform.quantile`."""
        del schedule
        return jax.nn.sigmoid(self.mean + self.std * ndtri(at_least_float32(u)))

    def cdf(self, t: ArrayLike, schedule: Schedule) -> Array:
        """As `Uniform.cdf`."""
        del schedule
        return ndtr((logit(at_least_float32(t)) - self.mean) / self.std)

    def density(self, t: ArrayLike, schedule: Schedule) -> Array:
        """`N(logit t; mean, std^2) / (t (1 - t))`, like `t`; 0 at the ends."""
        del schedule
        t = at_least_float32(t)
        inside = (t > 0) & (t < 1)
        t = jnp.where(inside, t, 0.5)
        normal = jax.scipy.stats.norm.pdf(logit(t), self.mean, self.std)
        return jnp.where(inside, normal / (t * (1 - t)), 0)


MODE_SCALE_MAX = 2 / (np.pi - 2)


@register
class Mode(Independent):
    """`t = q(u) = u + scale (u - sin^2(pi u / 2))` with u uniform.

    A positive `scale` prefers the middle of [0, 1], a negative one its ends; 0 is
    uniform. The density `1 / q'(u)` needs u of t, found by bisection and Newton steps.

    Args:
      scale: in [-1, 2 / (pi - 2)], where q rises.

    Raises:
      ValueError: `scale` is out of its bounds.

    Source: Esser et al. 2024, arXiv 2403.03206, mode sampling with heavy tails: there
    the map falls, `1 - u - scale (cos^2(pi u / 2) - 1 + u)`, which is `q(1 - u)`.
    """

    scale: float = 1.29

    def __post_init__(self) -> None:
        holds = lambda scale: -1 <= scale <= MODE_SCALE_MAX
        check_bound("scale", self.scale, holds, f"in [-1, {MODE_SCALE_MAX:.6g}]")

    def quantile(self, u: ArrayLike, schedule: Schedule) -> Array:
        """As `Uniform.quantile`."""
        del schedule
        u = at_least_float32(u)
        return u + self.scale * (u - jnp.sin(jnp.pi / 2 * u) ** 2)

    def cdf(self, t: ArrayLike, schedule: Schedule) -> Array:
        """As `Uniform.cdf`."""
        t = at_least_float32(t)
        rise = lambda u: self.quantile(u, schedule)

        def halve(_: Array, bracket: tuple[Array, Array]) -> tuple[Array, Array]:
            low, high = bracket
            middle = (low + high) / 2
            below = rise(middle) < t
            return jnp.where(below, middle, low), jnp.where(below, high, middle)

        ends = jnp.zeros_like(t), jnp.ones_like(t)
        low, high = jax.lax.fori_loop(0, 26, halve, ends)
        u = jax.lax.stop_gradient((low + high) / 2)
        for _ in range(3):  # these carry the derivative, in t and in scale
            slope = self._slope(u)
            flat = slope <= 0
            step = (rise(u) - t) / jnp.where(flat, 1, slope)
            u = jnp.clip(u - jnp.where(flat, 0, step), 0, 1)
        return u

    def density(self, t: ArrayLike, schedule: Schedule) -> Array:
        """`1 / q'(u)` at `q(u) = t`, like `t`; 0 outside [0, 1]."""
        t = at_least_float32(t)
        inside = (t >= 0) & (t <= 1)
        u = self.cdf(jnp.where(inside, t, 0.5), schedule)
        return jnp.where(inside, 1 / self._slope(u), 0)

    def _slope(self, u: Array) -> Array:
        return 1 + self.scale * (1 - jnp.pi / 2 * jnp.sin(jnp.pi * u))


@register
class CosMap(Independent):
    """The times of flow matching at which the cosine schedule spends its noise levels.

    Density `2 / (pi (1 - 2 t + 2 t^2))`: `UniformOn(Cosine())` on flow matching.

    Source: Esser et al. 2024, arXiv 2403.03206, CosMap.
    """

    def quantile(self, u: ArrayLike, schedule: Schedule) -> Array:
        """As `Uniform.quantile`."""
        del schedule
        u = at_least_float32(u)
        sine, cosine = jnp.sin(jnp.pi / 2 * u), jnp.sin(jnp.pi / 2 * (1 - u))
        return sine / (sine + cosine)

    def cdf(self, t: ArrayLike, schedule: Schedule) -> Array:
        """As `Uniform.cdf`."""
        del schedule
        t = at_least_float32(t)
        return 2 / jnp.pi * jnp.arctan2(t, 1 - t)

    def density(self, t: ArrayLike, schedule: Schedule) -> Array:
        """`2 / (pi (t^2 + (1 - t)^2))`, like `t`; 0 outside [0, 1]."""
        del schedule
        t = at_least_float32(t)
        inside = (t >= 0) & (t <= 1)
        return jnp.where(inside, 2 / (jnp.pi * (t**2 + (1 - t) ** 2)), 0)


@register
class Truncated(Independent):
    """Another density, restricted to a window of times and of noise levels.

    `base.density / mass` inside the window, 0 outside. The window is where t is in
    [t_min, t_max] and the log-SNR in [logsnr_min, logsnr_max].

    Args:
      base: a density with `cdf` and `quantile`.
      t_min: lower end, at least 0.
      t_max: upper end, at most 1.
      logsnr_min: lower bound of the log-SNR; -inf for none.
      logsnr_max: upper bound of the log-SNR; inf for none.

    Raises:
      ValueError: an empty window, or `base` is stratified: stratification would be
        lost, write `Stratified(Truncated(...))`.
    """

    base: Any
    t_min: float = 0.0
    t_max: float = 1.0
    logsnr_min: float = -jnp.inf
    logsnr_max: float = jnp.inf

    def __post_init__(self) -> None:
        _check_window(self.t_min, self.t_max)
        if isinstance(self.logsnr_max, (int, float)):
            below = lambda low: low < self.logsnr_max
            bound = f"below logsnr_max={self.logsnr_max!r}"
            check_bound("logsnr_min", self.logsnr_min, below, bound)
        if isinstance(self.base, Stratified):
            raise ValueError(
                f"base={self.base!r}: truncated, its times would be independent; "
                "write Stratified(Truncated(...))"
            )

    def _window(self, schedule: Schedule) -> tuple[Array, Array]:
        """First and last time."""
        early = at_least_float32(schedule.inverse_logsnr(self.logsnr_max))
        late = at_least_float32(schedule.inverse_logsnr(self.logsnr_min))
        low = jnp.where(jnp.isinf(self.logsnr_max), 0, early)
        high = jnp.where(jnp.isinf(self.logsnr_min), 1, late)
        return jnp.maximum(self.t_min, low), jnp.minimum(self.t_max, high)

    def _fractions(self, schedule: Schedule) -> tuple[Array, Array]:
        """Fraction of the base before the window, and inside it."""
        low, high = (self.base.cdf(end, schedule) for end in self._window(schedule))
        return low, high - low

    def quantile(self, u: ArrayLike, schedule: Schedule) -> Array:
        """As `Uniform.quantile`."""
        low, mass = self._fractions(schedule)
        t = self.base.quantile(low + mass * at_least_float32(u), schedule)
        return jnp.clip(t, *self._window(schedule))

    def cdf(self, t: ArrayLike, schedule: Schedule) -> Array:
        """As `Uniform.cdf`."""
        low, mass = self._fractions(schedule)
        t = jnp.clip(at_least_float32(t), *self._window(schedule))
        return (self.base.cdf(t, schedule) - low) / mass

    def density(self, t: ArrayLike, schedule: Schedule) -> Array:
        """`base.density / mass` inside, 0 outside; of the shape of `t`."""
        t = at_least_float32(t)
        low, high = self._window(schedule)
        mass = self._fractions(schedule)[1]
        inside = (low <= t) & (t <= high)
        return jnp.where(inside, self.base.density(t, schedule) / mass, 0)


@register
class Stratified:
    """Times of another density, evenly spread within the batch.

    Example i of n gets the quantile `(u + i / n) mod 1` with one `u` for the batch:
    each time alone has the density of `base`, and the mean over a batch varies less.
    The times depend on the whole batch by nature: with keys `[*batch]` the `u` comes
    from the first of them.

    Source: Kingma et al. 2021, arXiv 2107.00630, low-discrepancy sampler.
    """

    base: Any

    def sample(self, key: Array, shape: tuple[int, ...], schedule: Schedule) -> Array:
        """Times of `shape`, float32; `key` scalar or of `shape`."""
        count = int(np.prod(shape, dtype=np.int64))
        first = random.lattice(key if key.ndim == 0 else key.reshape(-1)[0], ())
        offsets = np.arange(count, dtype=np.uint64) * random.LATTICE // max(count, 1)
        number = (first + offsets.astype(np.uint32)) % np.uint32(random.LATTICE)
        return self.quantile(random.from_lattice(number), schedule).reshape(shape)

    def quantile(self, u: ArrayLike, schedule: Schedule) -> Array:
        """That of each single time, of `base`."""
        return self.base.quantile(u, schedule)

    def cdf(self, t: ArrayLike, schedule: Schedule) -> Array:
        """That of each single time, of `base`."""
        return self.base.cdf(t, schedule)

    def density(self, t: ArrayLike, schedule: Schedule) -> Array:
        """The density of each single time, that of `base`."""
        return self.base.density(t, schedule)


def _check_window(t_min: Any, t_max: Any) -> None:
    check_bound("t_min", t_min, lambda t: 0 <= t < 1, "in [0, 1)")
    if isinstance(t_min, (int, float)):
        above = lambda t: t_min < t <= 1
        check_bound("t_max", t_max, above, f"in ({t_min}, 1]")
