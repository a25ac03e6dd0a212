"""Noise-level distributions (of log-SNR), as distributions of time on any schedule.

With F the fraction of noise levels below that of log-SNR l (above l, as log-SNR), times
have `cdf(t) = F(logsnr_t)` and `density(t) = F'(logsnr_t) dlogsnr/dt`. Where a schedule
ends before the noise levels do, they are restricted to those that it reaches.
"""

from typing import Any

from jax import Array
from jax.typing import ArrayLike

from diffusionflow import _xp as xp
from diffusionflow._dataclass import (
    check_below,
    check_bound,
    check_positive,
    is_finite,
    is_traced,
    register,
)
from diffusionflow._numeric import cast, floating, in_float64, in_type_of
from diffusionflow.schedules import Schedule
from diffusionflow.times.densities import InverseTransform


def check_reached(
    low: float | Array, high: float | Array, *, schedule: Schedule
) -> None:
    """Checks that a schedule reaches a range of log-SNR within t in [0, 1].

    Args:
      low: lower end of a range of log-SNR, scalar.
      high: upper end.
      schedule: any. Traced values cannot be checked and pass.

    Raises:
      ValueError: it does not; names both ranges.
    """
    if is_traced((schedule, low, high)):
        return
    first, last = schedule.logsnr_range()
    low, high = float(low), float(high)  # inside jit JAX would trace the comparison
    slack = 1e-6 * max(1.0, abs(low), abs(high))  # of rounding
    if not (first - slack <= low and high <= last + slack):
        raise ValueError(
            f"log-SNR in [{low:.6g}, {high:.6g}]: {schedule} reaches "
            f"[{first:.6g}, {last:.6g}] only; choose a range inside"
        )


LEAST_MASS = 1e-3  # of the restricted density: float32 still resolves parts of it


def check_mass(density: Any, schedule: Schedule, mass_fn: Any) -> None:
    """Checks that a restriction keeps at least `LEAST_MASS` of a density.

    Args:
      density: any. Traced values cannot be checked and pass.
      schedule: that it is used with.
      mass_fn: `(density, schedule) -> fraction` that is left.

    Raises:
      ValueError: it does not; names both.
    """
    mass = in_float64(mass_fn, density, schedule)
    if not is_traced(mass) and not mass >= LEAST_MASS:
        raise ValueError(
            f"{density}: a fraction of {float(mass):.3g} of it lies where {schedule} "
            f"and its window reach; must be at least {LEAST_MASS}: choose another "
            "window or other levels"
        )


class _Levels(InverseTransform):
    """Subclasses give F as `_fraction`, its inverse `_logsnr`, and |F'| as `_pdf`."""

    def _fraction(self, logsnr: Array) -> Array:
        raise NotImplementedError

    def _logsnr(self, fraction: Array) -> Array:
        raise NotImplementedError

    def _pdf(self, logsnr: Array) -> Array:
        raise NotImplementedError

    def _below(self, t: ArrayLike, schedule: Schedule) -> Array:
        """Computes F at time `t`: exactly 0 or 1, and flat, at infinite log-SNR."""
        t = floating(t)
        logsnr = schedule.logsnr(t)
        finite = xp.isfinite(logsnr)
        inside = schedule.logsnr(xp.where(finite, t, 0.5))  # a finite derivative
        end = xp.where(logsnr > 0, 0, 1)
        return xp.where(finite, self._fraction(inside), cast(end, inside))

    def _share(self, schedule: Schedule) -> tuple[Array, Array]:
        """Computes the fractions of levels below the schedule's and among them."""
        low = self._below(0.0, schedule)
        return low, self._below(1.0, schedule) - low

    def _reach(self, schedule: Schedule) -> tuple[ArrayLike, ArrayLike]:
        """Computes `_share`; checks that the schedule covers `LEAST_MASS` of it."""
        check_mass(self, schedule, lambda density, on: density._share(on)[1])
        return self._share(schedule)

    def _window(self, schedule: Schedule) -> tuple[ArrayLike, ArrayLike]:
        """Returns the first and the last time that has a density."""
        del schedule
        return 0.0, 1.0

    def quantile(self, u: ArrayLike, *, schedule: Schedule) -> Array:
        """Finds the inverse CDF: the time below which a fraction `u` of times lies."""
        u = floating(u)
        low, mass = in_type_of(u, self._reach(schedule))
        fraction = low + mass * u
        finite = xp.isfinite(self._logsnr(fraction))
        level = self._logsnr(xp.where(finite, fraction, 0.5))  # a finite derivative
        t = schedule.inverse_logsnr(level)
        first, last = in_type_of(t, self._window(schedule))
        end = xp.where(fraction < 0.5, first, last)
        return xp.where(finite, xp.clip(t, first, last), end)

    def cdf(self, t: ArrayLike, *, schedule: Schedule) -> Array:
        """Computes the CDF: the fraction of times below `t`, of the shape of `t`."""
        t = xp.clip(floating(t), 0, 1)
        low, mass = in_type_of(t, self._reach(schedule))
        return (self._below(t, schedule) - low) / mass

    def density(self, t: ArrayLike, *, schedule: Schedule) -> Array:
        """Computes the density, like `t`; 0 outside [0, 1] and at infinite log-SNR."""
        t = floating(t)
        first, last = in_type_of(t, self._window(schedule))
        inside = (first <= t) & (t <= last)
        inside = inside & xp.isfinite(schedule.logsnr(xp.where(inside, t, 0.5)))
        t = xp.where(inside, t, 0.5)
        slope = xp.abs(schedule.dlogsnr_dt(t))
        _, mass = in_type_of(t, self._reach(schedule))
        density = self._pdf(schedule.logsnr(t)) * slope / mass
        return xp.where(inside, density, 0)


@register
class LogNormalSigma(_Levels):
    """Log-normal `sigma / alpha`: `log(sigma / alpha) ~ N(mean, std^2)`.

    The log-SNR is `N(-2 mean, (2 std)^2)`.

    Args:
      mean: of the log noise-to-signal ratio, P_mean.
      std: of the same, P_std, positive.

    Raises:
      ValueError: `std` is not positive; and where the density is used, a concrete
        schedule reaches less than `LEAST_MASS` of it.

    Source: Karras et al. 2022, arXiv 2206.00364, table 1.
    """

    mean: float | Array = -1.2
    std: float | Array = 1.2

    def __post_init__(self) -> None:
        check_bound("mean", self.mean, is_finite, "finite")
        check_positive("std", self.std)

    def _fraction(self, logsnr: Array) -> Array:
        return xp.ndtr((-logsnr / 2 - self.mean) / self.std)

    def _logsnr(self, fraction: Array) -> Array:
        return -2 * (self.mean + self.std * xp.ndtri(fraction))

    def _pdf(self, logsnr: Array) -> Array:
        return xp.normal_pdf(logsnr, -2 * self.mean, 2 * self.std)


@register
class UniformLogSNR(_Levels):
    """Uniform log-SNR on a given range, which the schedule must reach.

    Args:
      logsnr_min: lower end, finite.
      logsnr_max: upper end, finite.

    Raises:
      ValueError: an end is infinite or `logsnr_min >= logsnr_max`; and where the
        density is used, a range that a concrete schedule does not reach.
    """

    logsnr_min: float | Array
    logsnr_max: float | Array

    def __post_init__(self) -> None:
        check_bound("logsnr_min", self.logsnr_min, is_finite, "finite")
        check_bound("logsnr_max", self.logsnr_max, is_finite, "finite")
        check_below("logsnr_min", self.logsnr_min, "logsnr_max", self.logsnr_max)

    def _reach(self, schedule: Schedule) -> tuple[ArrayLike, ArrayLike]:
        check_reached(self.logsnr_min, self.logsnr_max, schedule=schedule)
        return 0.0, 1.0

    def _window(self, schedule: Schedule) -> tuple[ArrayLike, ArrayLike]:
        # in t, as times are sampled: the log-SNR of a time at an end may round outside
        ends = (self.logsnr_max, self.logsnr_min)
        first, last = (schedule.inverse_logsnr(end) for end in ends)
        return xp.clip(first, 0, 1), xp.clip(last, 0, 1)

    def _fraction(self, logsnr: Array) -> Array:
        width = self.logsnr_max - self.logsnr_min
        return xp.clip((self.logsnr_max - logsnr) / width, 0, 1)

    def _logsnr(self, fraction: Array) -> Array:
        return self.logsnr_max - (self.logsnr_max - self.logsnr_min) * fraction

    def _pdf(self, logsnr: Array) -> Array:
        return xp.ones_like(logsnr) / (self.logsnr_max - self.logsnr_min)


@register
class UniformOn(_Levels):
    """Noise levels of uniform times on another schedule.

    `F(l)` is the other schedule's time at log-SNR l, so the density of the log-SNR is
    `1 / |dlogsnr/dt|` of that schedule: a training schedule apart from the one that the
    network and the sampler see.

    Args:
      other: a schedule.
    """

    other: Any

    def _time(self, logsnr: Array) -> tuple[Array, Array]:
        """Finds the time on the other schedule, and if it is inside: flat where not."""
        t = xp.stop_gradient(self.other.inverse_logsnr(logsnr))
        inside = (t > 0) & (t < 1)
        middle = cast(self.other.logsnr(0.5), logsnr)
        safe = self.other.inverse_logsnr(xp.where(inside, logsnr, middle))
        return xp.where(inside, safe, xp.clip(t, 0, 1)), inside

    def _fraction(self, logsnr: Array) -> Array:
        return self._time(logsnr)[0]

    def _logsnr(self, fraction: Array) -> Array:
        return self.other.logsnr(fraction)

    def _pdf(self, logsnr: Array) -> Array:
        t, inside = self._time(logsnr)
        slope = self.other.dlogsnr_dt(xp.where(inside, t, 0.5))
        return xp.where(inside, 1 / xp.abs(slope), 0)
