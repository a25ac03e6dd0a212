"""Densities of training times.

A density over [0, 1] has `quantile(u, schedule)`, its inverse distribution function,
`density(t, schedule)` and `sample(key, shape, schedule)`. In an objective it is part of
what is learned; as a proposal it is where times are really drawn, and importance
weights undo it.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.scipy.special import logit, ndtri
from jax.typing import ArrayLike

from diffusionflow import random
from diffusionflow._dataclass import check_bound, register
from diffusionflow._numeric import at_least_float32
from diffusionflow.schedules import Schedule


class _Independent:
    def sample(self, key: Array, shape: tuple[int, ...], schedule: Schedule) -> Array:
        """Independent times of `shape`, float32; `key` scalar or of `shape`."""
        return self.quantile(random.uniform(key, shape), schedule)


@register
class Uniform(_Independent):
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
        check_bound("t_min", self.t_min, lambda t: 0 <= t < 1, "in [0, 1)")
        if isinstance(self.t_min, (int, float)):
            above = lambda t: self.t_min < t <= 1
            check_bound("t_max", self.t_max, above, f"in ({self.t_min}, 1]")

    def quantile(self, u: ArrayLike, schedule: Schedule) -> Array:
        """The time below which a fraction `u` of the times lies."""
        del schedule
        return self.t_min + (self.t_max - self.t_min) * at_least_float32(u)

    def density(self, t: ArrayLike, schedule: Schedule) -> Array:
        """`1 / (t_max - t_min)` inside, 0 outside; of the shape of `t`."""
        del schedule
        t = at_least_float32(t)
        inside = (self.t_min <= t) & (t <= self.t_max)
        return jnp.where(inside, 1 / (self.t_max - self.t_min), jnp.zeros_like(t))


@register
class LogitNormal(_Independent):
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

    def density(self, t: ArrayLike, schedule: Schedule) -> Array:
        """`N(logit t; mean, std^2) / (t (1 - t))`, like `t`; 0 at the ends."""
        del schedule
        t = at_least_float32(t)
        inside = (t > 0) & (t < 1)
        t = jnp.where(inside, t, 0.5)
        normal = jax.scipy.stats.norm.pdf(logit(t), self.mean, self.std)
        return jnp.where(inside, normal / (t * (1 - t)), 0)


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
        return self.base.quantile(random.from_lattice(number), schedule).reshape(shape)

    def density(self, t: ArrayLike, schedule: Schedule) -> Array:
        """The density of each single time, that of `base`."""
        return self.base.density(t, schedule)
