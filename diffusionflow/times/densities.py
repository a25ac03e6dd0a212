"""Time distributions given in t, the same for any schedule."""

from typing import Any

import numpy as np
from jax import Array
from jax.typing import ArrayLike

from diffusionflow import _xp as xp
from diffusionflow import random
from diffusionflow._dataclass import (
    QuietMethods,
    check_bound,
    check_positive,
    is_finite,
    is_number,
    register,
)
from diffusionflow._numeric import floating, solve_falling
from diffusionflow.schedules import Schedule


class InverseTransform(QuietMethods):
    """Base class of time (noise-level) distributions: samples by the inverse CDF."""

    def quantile(self, u: ArrayLike, *, schedule: Schedule) -> Array:
        """Finds the inverse CDF: the time below which a fraction `u` of times lies."""
        raise NotImplementedError(f"{type(self).__name__} must define quantile(u)")

    def sample(
        self, key: Array, shape: tuple[int, ...], *, schedule: Schedule
    ) -> Array:
        """Samples independent times of `shape`, float32; `key` scalar or of `shape`."""
        return self.quantile(random.uniform(key, shape), schedule=schedule)


@register
class Uniform(InverseTransform):
    """Uniform times on (t_min, t_max).

    Args:
      t_min: lower end, at least 0.
      t_max: upper end, at most 1.

    Raises:
      ValueError: not 0 <= t_min < t_max <= 1.
    """

    t_min: float | Array = 0.0
    t_max: float | Array = 1.0

    def __post_init__(self) -> None:
        check_window(self.t_min, self.t_max)

    def quantile(self, u: ArrayLike, *, schedule: Schedule) -> Array:
        """Finds the inverse CDF: the time below which a fraction `u` of times lies."""
        del schedule
        return self.t_min + (self.t_max - self.t_min) * floating(u)

    def cdf(self, t: ArrayLike, *, schedule: Schedule) -> Array:
        """Computes the CDF: the fraction of times below `t`, of the shape of `t`."""
        del schedule
        fraction = (floating(t) - self.t_min) / (self.t_max - self.t_min)
        return xp.clip(fraction, 0, 1)

    def density(self, t: ArrayLike, *, schedule: Schedule) -> Array:
        """Computes the density `1 / (t_max - t_min)` inside, 0 outside; like `t`."""
        del schedule
        t = floating(t)
        inside = (self.t_min <= t) & (t <= self.t_max)
        return xp.where(inside, 1 / (self.t_max - self.t_min), xp.zeros_like(t))


@register
class LogitNormal(InverseTransform):
    """Logit-normal times: `logit(t) ~ N(mean, std^2)`, at any schedule.

    Args:
      mean: of the logit; positive towards the noise.
      std: of the logit, positive.

    Raises:
      ValueError: `std` is not positive.

    Source: Esser et al. 2024, arXiv 2403.03206, logit-normal sampling.
    """

    mean: float | Array = 0.0
    std: float | Array = 1.0

    def __post_init__(self) -> None:
        check_bound("mean", self.mean, is_finite, "finite")
        check_positive("std", self.std)

    def quantile(self, u: ArrayLike, *, schedule: Schedule) -> Array:
        """Finds the inverse CDF: the time below which a fraction `u` of times lies."""
        del schedule
        u, inside, end = _between(u)
        t = xp.sigmoid(self.mean + self.std * xp.ndtri(u))
        return xp.where(inside, t, end)

    def cdf(self, t: ArrayLike, *, schedule: Schedule) -> Array:
        """Computes the CDF: the fraction of times below `t`, of the shape of `t`."""
        del schedule
        t, inside, end = _between(t)
        return xp.where(inside, xp.ndtr((xp.logit(t) - self.mean) / self.std), end)

    def density(self, t: ArrayLike, *, schedule: Schedule) -> Array:
        """Computes the density `N(logit t; mean, std^2) / (t (1 - t))`; 0 at ends."""
        del schedule
        t, inside, _ = _between(t)
        normal = xp.normal_pdf(xp.logit(t), self.mean, self.std)
        return xp.where(inside, normal / (t * (1 - t)), 0)


def _between(value: ArrayLike) -> tuple[Array, Array, Array]:
    """Returns `value`, or 1/2 if not in (0, 1), whether it is, and the nearer end."""
    value = floating(value)
    inside = (value > 0) & (value < 1)
    return xp.where(inside, value, 0.5), inside, (value > 0.5).astype(value.dtype)


MODE_SCALE_MAX = 2 / (np.pi - 2)


@register
class Mode(InverseTransform):
    """Mode sampling: `t = q(u) = u + scale (u - sin^2(pi u / 2))` with u uniform.

    A positive `scale` prefers the middle of [0, 1], a negative one its ends; 0 is
    uniform. The density `1 / q'(u)` needs u of t, found by bisection and Newton steps.

    Args:
      scale: in [-1, 2 / (pi - 2)], where q rises.

    Raises:
      ValueError: `scale` is out of its bounds.

    Source: Esser et al. 2024, arXiv 2403.03206, mode sampling with heavy tails: there
    the map falls, `1 - u - scale (cos^2(pi u / 2) - 1 + u)`, which is `q(1 - u)`.
    """

    scale: float | Array = 1.29

    def __post_init__(self) -> None:
        holds = lambda scale: -1 <= scale <= MODE_SCALE_MAX
        check_bound("scale", self.scale, holds, f"in [-1, {MODE_SCALE_MAX:.6g}]")

    def quantile(self, u: ArrayLike, *, schedule: Schedule) -> Array:
        """Finds the inverse CDF: the time below which a fraction `u` of times lies."""
        del schedule
        u = floating(u)
        return u + self.scale * (u - xp.sin(xp.pi / 2 * u) ** 2)

    def cdf(self, t: ArrayLike, *, schedule: Schedule) -> Array:
        """Computes the CDF: the fraction of times below `t`, of the shape of `t`."""
        t = xp.clip(floating(t), 0, 1)
        falling = lambda u: -self.quantile(u, schedule=schedule)
        return xp.clip(
            solve_falling(falling, -t, 0.0, 1.0, lambda u: -self._slope(u)), 0, 1
        )

    def density(self, t: ArrayLike, *, schedule: Schedule) -> Array:
        """Computes the density `1 / q'(u)` at `q(u) = t`, like `t`; 0 off [0, 1]."""
        t = floating(t)
        inside = (t >= 0) & (t <= 1)
        u = self.cdf(xp.where(inside, t, 0.5), schedule=schedule)
        return xp.where(inside, 1 / self._slope(u), 0)

    def _slope(self, u: Array) -> Array:
        return 1 + self.scale * (1 - xp.pi / 2 * xp.sin(xp.pi * u))


@register
class CosMap(InverseTransform):
    """CosMap: times of flow matching with the noise levels of the cosine schedule.

    Density `2 / (pi (1 - 2 t + 2 t^2))`: `UniformOn(Cosine())` on flow matching.

    Source: Esser et al. 2024, arXiv 2403.03206, CosMap.
    """

    def quantile(self, u: ArrayLike, *, schedule: Schedule) -> Array:
        """Finds the inverse CDF: the time below which a fraction `u` of times lies."""
        del schedule
        u = floating(u)
        sine, cosine = xp.sin(xp.pi / 2 * u), xp.sin(xp.pi / 2 * (1 - u))
        return sine / (sine + cosine)

    def cdf(self, t: ArrayLike, *, schedule: Schedule) -> Array:
        """Computes the CDF: the fraction of times below `t`, of the shape of `t`."""
        del schedule
        t = xp.clip(floating(t), 0, 1)
        return 2 / xp.pi * xp.arctan2(t, 1 - t)

    def density(self, t: ArrayLike, *, schedule: Schedule) -> Array:
        """Computes the density `2 / (pi (t^2 + (1 - t)^2))`, like `t`; 0 off [0, 1]."""
        del schedule
        t = floating(t)
        inside = (t >= 0) & (t <= 1)
        return xp.where(inside, 2 / (xp.pi * (t**2 + (1 - t) ** 2)), 0)


def check_window(t_min: Any, t_max: Any) -> None:
    """Raises a `ValueError` unless 0 <= t_min < t_max <= 1."""
    check_bound("t_min", t_min, lambda t: 0 <= t < 1, "in [0, 1)")
    if is_number(t_min):
        above = lambda t: t_min < t <= 1
        check_bound("t_max", t_max, above, f"in ({t_min}, 1]")
