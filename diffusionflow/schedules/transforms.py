"""Schedules made from other schedules or from a user's functions."""

from typing import Any

import numpy as np
from jax import Array
from jax.typing import ArrayLike

from diffusionflow import _xp as xp
from diffusionflow._dataclass import (
    as_callable,
    check_instance,
    check_positive,
    register,
)
from diffusionflow._numeric import (
    GRID,
    check_falls,
    check_on_grid,
    derivative,
    elementwise,
    floating,
    in_type_of,
)
from diffusionflow.schedules.base import Schedule


@register
class Scaled(Schedule):
    """Scaled schedule `(c alpha, c sigma)`: the same log-SNR, and `z -> c z`.

    `f -> f + c' / c`, `g^2 -> c^2 g^2`. Flow matching scaled by
    `1 / sqrt((1 - t)^2 + t^2)` is variance preserving. Numbers to be learned,
    vmapped or otherwise traced belong in a `jax.tree_util.Partial(fn, *numbers)`; what
    a bare function closes over is fixed.

    Args:
      base: any schedule.
      scale_fn: `t -> c`, positive, elementwise and differentiable.

    Raises:
      ValueError: c is not positive at a time of a grid. (Checked where the function
        has no leaves, or Python numbers only.)
    """

    base: Any
    scale_fn: Any

    def __post_init__(self) -> None:
        check_instance("base", self.base, "FlowMatching()")
        object.__setattr__(self, "scale_fn", as_callable(self.scale_fn))
        check_on_grid(_check_scale, self.scale_fn)

    def _scale(self, t: ArrayLike) -> tuple[Array, Array]:
        """Computes `c` and its derivative."""
        slope = derivative(lambda fn, t: fn(t), self.scale_fn, t)
        return elementwise(self.scale_fn, t), slope

    def alpha(self, t: ArrayLike) -> Array:
        return elementwise(self.scale_fn, t) * self.base.alpha(t)

    def sigma(self, t: ArrayLike) -> Array:
        return elementwise(self.scale_fn, t) * self.base.sigma(t)

    def logsnr(self, t: ArrayLike) -> Array:
        return self.base.logsnr(t)

    def inverse_logsnr(self, logsnr: ArrayLike) -> Array:
        return self.base.inverse_logsnr(logsnr)

    def derivatives(self, t: ArrayLike) -> tuple[Array, Array]:
        (scale, slope), (dalpha, dsigma) = self._scale(t), self.base.derivatives(t)
        return (
            scale * dalpha + slope * self.base.alpha(t),
            scale * dsigma + slope * self.base.sigma(t),
        )

    def square_derivatives(self, t: ArrayLike) -> tuple[Array, Array]:
        (scale, slope), rates = self._scale(t), self.base.square_derivatives(t)
        levels = self.base.alpha(t), self.base.sigma(t)
        return tuple(
            scale**2 * rate + 2 * scale * slope * level**2
            for rate, level in zip(rates, levels, strict=True)
        )

    def f(self, t: ArrayLike) -> Array:
        scale, slope = self._scale(t)
        return self.base.f(t) + slope / scale

    def g2(self, t: ArrayLike) -> Array:
        return self._scale(t)[0] ** 2 * self.base.g2(t)

    def dlogsnr_dt(self, t: ArrayLike) -> Array:
        return self.base.dlogsnr_dt(t)


def shift_time(t: ArrayLike, k: float | Array) -> Array:
    """Shifts times, `k t / (1 + (k - 1) t)`: `Shifted` on flow matching.

    Args:
      t: times in [0, 1], any shape; 0 and 1 are kept exactly.
      k: positive; above 1 moves times towards the noise.

    Returns:
      Like `t`.

    Source: Esser et al. 2024, arXiv 2403.03206, shifting of the timesteps.
    """
    t = floating(t)
    return k * t / (k * t + (1 - t))


@register
class Shifted(Schedule):
    """Shifted schedule, `logsnr - 2 log k`: for k times the resolution (pixels a side).

    The log-SNR fixes alpha and sigma up to a common scale, which is chosen so that the
    result is of the base's family, and finite where the base is:

    - variance preserving: `(alpha, k sigma) / sqrt(alpha^2 + k^2 sigma^2)`;
    - flow matching: `(alpha, k sigma) (alpha + sigma) / (alpha + k sigma)`, which for
      sigma_min = 0 is the change of time `t -> k t / (1 + (k - 1) t)`;
    - any other (variance exploding, sub-VP, `Scaled`, a user's): `(alpha, k sigma)`.

    On schedules other than flow matching that change of time is not this shift.

    Args:
      base: any schedule.
      k: positive; above 1 for more noise at each time.

    Raises:
      ValueError: `k` is not positive.

    Source: Hoogeboom et al. 2023, arXiv 2301.11093 (k = resolution / base resolution);
    Esser et al. 2024, arXiv 2403.03206 (k = sqrt(m / n)). They are the same.

    Example:
      >>> from diffusionflow import schedules
      >>> flow = schedules.FlowMatching()
      >>> shifted = Shifted(flow, k=3.0)
      >>> print(f"{shifted.logsnr(0.5) - flow.logsnr(0.5) + 2 * xp.log(3.0):.6f}")
      0.000000
      >>> print(f"{shifted.sigma(0.5):.3f}")  # at the changed time 3 t / (1 + 2 t)
      0.750
    """

    base: Any
    k: float | Array

    def __post_init__(self) -> None:
        check_instance("base", self.base, "FlowMatching()")
        check_positive("k", self.k)

    @property
    def family(self) -> str | None:  # type: ignore[override]
        """Family of the base."""
        return self.base.family

    def _scale(self, t: ArrayLike) -> Array:
        alpha, sigma = self.base.alpha(t), self.base.sigma(t)
        match self.family:
            case "vp":
                return 1 / xp.sqrt(alpha**2 + (self.k * sigma) ** 2)
            case "flow":
                return (alpha + sigma) / (alpha + self.k * sigma)
        return xp.ones_like(alpha)

    def alpha(self, t: ArrayLike) -> Array:
        return self._scale(t) * self.base.alpha(t)

    def sigma(self, t: ArrayLike) -> Array:
        return self.k * self._scale(t) * self.base.sigma(t)

    def logsnr(self, t: ArrayLike) -> Array:
        logsnr = self.base.logsnr(t)
        return logsnr - 2 * in_type_of(logsnr, [xp.log(self.k)])[0]

    def inverse_logsnr(self, logsnr: ArrayLike) -> Array:
        logsnr = floating(logsnr)
        log_k = in_type_of(logsnr, [xp.log(self.k)])[0]
        return self.base.inverse_logsnr(logsnr + 2 * log_k)

    def derivatives(self, t: ArrayLike) -> tuple[Array, Array]:
        dalpha, dsigma = self.base.derivatives(t)
        alpha, sigma, scale = self.base.alpha(t), self.base.sigma(t), self._scale(t)
        match self.family:
            case "vp":
                return self.k**2 * dalpha * scale**3, self.k * dsigma * scale**3
            case "flow":
                total, drift = alpha + sigma, dalpha + dsigma  # 1 and 0 for sigma_min=0
                inverse2 = (scale / total) ** 2
                rest = (1 - self.k) * drift
                return (
                    (self.k * dalpha * total**2 + rest * alpha**2) * inverse2,
                    self.k * (dsigma * total**2 - rest * sigma**2) * inverse2,
                )
        return dalpha, self.k * dsigma

    def square_derivatives(self, t: ArrayLike) -> tuple[Array, Array]:
        match self.family:
            case "vp":
                return tuple(
                    self.k**2 * rate * self._scale(t) ** 4
                    for rate in self.base.square_derivatives(t)
                )
            case "flow":
                dalpha, dsigma = self.derivatives(t)
                return 2 * self.alpha(t) * dalpha, 2 * self.sigma(t) * dsigma
        dalpha2, dsigma2 = self.base.square_derivatives(t)
        return dalpha2, self.k**2 * dsigma2

    def f(self, t: ArrayLike) -> Array:
        match self.family:
            case "vp":
                return -self.g2(t) / 2
            case "flow":
                return self.derivatives(t)[0] / self.alpha(t)
        return self.base.f(t)

    def g2(self, t: ArrayLike) -> Array:
        return (self.k * self._scale(t)) ** 2 * self.base.g2(t)

    def dlogsnr_dt(self, t: ArrayLike) -> Array:
        return self.base.dlogsnr_dt(t)


@register
class Interpolated(Schedule):
    """Schedule from functions `alpha(t)` and `sigma(t)`; the rest follows from them.

    Derivatives are those of forward mode, the inverse is a bisection, both under `jit`.
    The functions must be precise and differentiable at the ends themselves. Numbers
    to be learned, vmapped or otherwise traced belong in a
    `jax.tree_util.Partial(fn, *numbers)`; what a bare function closes over is fixed.

    Args:
      alpha_fn: `t -> alpha`, elementwise, not rising, at least 0.
      sigma_fn: `t -> sigma`, elementwise, at least 0; alpha / sigma must fall.

    Raises:
      ValueError: a value is negative or not finite, in float32 or float64, alpha rises,
        or the log-SNR does not fall, at a time of a grid. (Checked where the
        functions have no leaves, or Python numbers only.)
    """

    alpha_fn: Any
    sigma_fn: Any

    def __post_init__(self) -> None:
        object.__setattr__(self, "alpha_fn", as_callable(self.alpha_fn))
        object.__setattr__(self, "sigma_fn", as_callable(self.sigma_fn))
        check_on_grid(_check_levels, self.alpha_fn, self.sigma_fn)

    def alpha(self, t: ArrayLike) -> Array:
        return elementwise(self.alpha_fn, t)

    def sigma(self, t: ArrayLike) -> Array:
        return elementwise(self.sigma_fn, t)


def _check_scale(scale: np.ndarray) -> None:
    bad = ~(scale > 0)
    if bad.any():
        raise ValueError(
            f"scale_fn({GRID[bad][0]})={scale[bad][0]}: must be positive in [0, 1]"
        )


def _check_levels(alpha: np.ndarray, sigma: np.ndarray) -> None:
    for name, level in (("alpha_fn", alpha), ("sigma_fn", sigma)):
        bad = ~(level >= 0) | np.isinf(level)
        if bad.any():
            raise ValueError(
                f"{name}({GRID[bad][0]})={level[bad][0]} in {level.dtype}: must be "
                "finite and at least 0 in [0, 1]; cos(pi t / 2) rounds below 0, write "
                "sin(pi / 2 (1 - t))"
            )
    if alpha.dtype == np.float32:  # which may not distinguish neighbours
        return
    with np.errstate(divide="ignore", invalid="ignore"):
        check_falls(2 * (np.log(alpha) - np.log(sigma)))
    rises = np.diff(alpha) > 1e-12 * alpha[1:]  # more than rounding
    if rises.any():
        place = int(np.argmax(rises))
        raise ValueError(
            f"alpha_fn goes from {alpha[place]} at t={GRID[place]} to "
            f"{alpha[place + 1]}: it must not rise; t = 0 is data"
        )
