"""Prediction types (kinds): vectors `(a, b)` in the plane of data and noise."""

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from jax import Array
from jax.typing import ArrayLike

from diffusionflow import _xp as xp
from diffusionflow._dataclass import (
    QuietMethods,
    check_instance,
    check_name,
    check_positive,
    is_traced,
    register,
    static,
)
from diffusionflow._numeric import floating, in_float64
from diffusionflow.schedules import Schedule

NAMES = ("x", "eps", "v", "u", "dz_dt", "score")
AMBIGUOUS = {
    "velocity": '"u" (eps - x), "v" (alpha eps - sigma x) or "dz_dt"',
    "epsilon": '"eps"',
    "noise": '"eps"',
    "sample": '"x"',
    "x0": '"x"',
}


@register
class Kind(QuietMethods):
    """Prediction type without parameters.

    Args:
      name: one of `NAMES`.

    Raises:
      ValueError: the name is unknown, or means different things to different people.
    """

    name: str = static()

    def __post_init__(self) -> None:
        if self.name in AMBIGUOUS:
            raise ValueError(
                f"kind {self.name!r} is ambiguous: write {AMBIGUOUS[self.name]}"
            )
        check_name("kind", self.name, NAMES)

    def plane(self, t: ArrayLike, *, schedule: Schedule) -> tuple[Array, Array]:
        """Computes the coefficients `(a, b)` of `a x + b eps`, of the shape of `t`."""
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        zero, one = xp.zeros_like(alpha), xp.ones_like(alpha)
        match self.name:
            case "x":
                return one, zero
            case "eps":
                return zero, one
            case "v":
                return -sigma, alpha
            case "u":
                return -one, one
            case "score":
                return zero, -1 / sigma
        return schedule.derivatives(t)

    def __str__(self) -> str:
        return self.name


@register
class EdmF(QuietMethods):
    """EDM's prediction type F, of unit variance on data of std `sigma_data`.

    `a = sigma / (sigma_data S)`, `b = -sigma_data alpha / S`,
    `S = sqrt(sigma^2 + sigma_data^2 alpha^2)`: finite at both ends.

    Args:
      sigma_data: standard deviation of the data, positive.

    Raises:
      ValueError: `sigma_data` is not positive.

    Source: Karras et al. 2022, arXiv 2206.00364, table 1, written for any schedule.
    """

    sigma_data: Any = 0.5

    def __post_init__(self) -> None:
        check_positive("sigma_data", self.sigma_data)

    def plane(self, t: ArrayLike, *, schedule: Schedule) -> tuple[Array, Array]:
        """Computes the coefficients `(a, b)` of `a x + b eps`, of the shape of `t`."""
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        norm = schedule.z_std(t, self.sigma_data)
        return sigma / (self.sigma_data * norm), -self.sigma_data * alpha / norm

    def __str__(self) -> str:
        return f"edm_f(sigma_data={self.sigma_data})"


edm_f = EdmF


class PredictionType(Protocol):
    """Prediction type `a x + b eps`: any value with the method `plane`."""

    def plane(self, t: ArrayLike, *, schedule: Schedule) -> tuple[Array, Array]:
        """Computes the coefficients `(a, b)` of `a x + b eps`, of the shape of `t`."""
        ...


AnyKind = str | PredictionType


def as_kind(kind: Any) -> PredictionType:
    """Converts a name to its prediction type; a value with a `plane` is returned.

    Args:
      kind: a name of `NAMES`, or a value with the method `plane(t, *, schedule)`.

    Raises:
      ValueError: it is neither, or the name is unknown.
    """
    if isinstance(kind, str):
        return Kind(kind)
    if isinstance(kind, type) or not hasattr(kind, "plane"):
        raise ValueError(
            f"kind={kind!r}: must be one of {', '.join(NAMES)}, or have the method "
            "plane(t, *, schedule), as edm_f(sigma_data) has"
        )
    return kind


def same_kind(a: AnyKind, b: AnyKind) -> bool:
    """Returns whether two prediction types are equal, without comparing arrays.

    Args:
      a: a kind or its name.
      b: another.
    """
    a, b = as_kind(a), as_kind(b)
    return a is b or (isinstance(a, Kind) and isinstance(b, Kind) and a == b)


@xp.quiet
def determinant(kind: AnyKind, t: ArrayLike, *, schedule: Schedule) -> Array:
    """Computes the determinant `D = b alpha - a sigma`; 0 if `kind` gives no x and eps.

    Args:
      kind: any kind, with `(a, b)` from its `plane`.
      t: times, any shape.
      schedule: any schedule.

    Returns:
      An array of the shape of `t`.
    """
    check_instance("schedule", schedule, "schedules.FlowMatching()")
    a, b = as_kind(kind).plane(t, schedule=schedule)
    return b * schedule.alpha(t) - a * schedule.sigma(t)


def mse_ratio(kind: AnyKind, t: ArrayLike, *, schedule: Schedule) -> Array:
    """Computes MSE over eps-MSE at fixed z, `||p_hat - p||^2 / ||eps_hat - eps||^2`.

    Args:
      kind: of p.
      t: times, any shape.
      schedule: any schedule.

    Returns:
      `(D / alpha)^2`, of the shape of `t`; infinite at alpha = 0 where D is not zero.

    Example:
      >>> from diffusionflow import schedules
      >>> print(mse_ratio("u", 0.5, schedule=schedules.FlowMatching()))
      4.0
    """
    return error_ratio(kind, "eps", t, schedule=schedule)


@xp.quiet
def error_ratio(
    kind: AnyKind, source: AnyKind, t: ArrayLike, *, schedule: Schedule
) -> Array:
    """Computes the MSE ratio at fixed z, `(q_hat - q)^2 / (p_hat - p)^2 = (D_q/D_p)^2`.

    Args:
      kind: of q.
      source: of p.
      t: times, any shape.
      schedule: any schedule.

    Returns:
      An array of the shape of `t`; 1 where the kinds are equal, at every time.
      (Between eps and score only sigma matters, and alpha may be 0.)
    """
    if same_kind(kind, source):
        return xp.ones_like(floating(t))
    match str(as_kind(kind)), str(as_kind(source)):
        case "eps", "score":
            return schedule.sigma(t) ** 2
        case "score", "eps":
            return schedule.sigma(t) ** -2
    top = determinant(kind, t, schedule=schedule)
    return (top / determinant(source, t, schedule=schedule)) ** 2


def check_determined(kind: AnyKind, t: ArrayLike, *, schedule: Schedule) -> None:
    """Raises where a prediction of `kind` does not give both x and eps.

    Args:
      kind: any kind.
      t: times, any shape. Traced values cannot be checked and pass.
      schedule: any schedule.

    Raises:
      ValueError: D is zero or not finite at a time in `t`, such as eps at alpha = 0.
    """

    def singular(kind: AnyKind, t: ArrayLike, schedule: Schedule) -> Array:
        both = determinant(kind, t, schedule=schedule)
        return (both == 0) | ~xp.isfinite(both)

    _check_nowhere(
        singular, "does not determine both x and eps", as_kind(kind), t, schedule
    )


def check_sigma_positive(kind: AnyKind, t: ArrayLike, *, schedule: Schedule) -> None:
    """Raises where sigma = 0, so that eps and score do not determine each other.

    Args:
      kind: eps or score, for the message.
      t: times, any shape. Traced values cannot be checked and pass.
      schedule: any schedule.

    Raises:
      ValueError: sigma is zero at a time in `t`.
    """
    clean = lambda kind, t, schedule: schedule.sigma(t) == 0
    _check_nowhere(clean, "does not determine the other", as_kind(kind), t, schedule)


def check_finite_kind(kind: AnyKind, t: ArrayLike, *, schedule: Schedule) -> None:
    """Raises where no prediction of `kind` is finite, such as the score at sigma = 0.

    Args:
      kind: any kind.
      t: times, any shape. Traced values cannot be checked and pass.
      schedule: any schedule.

    Raises:
      ValueError: a coefficient of x or eps is not finite at a time in `t`.
    """
    kind = as_kind(kind)
    if str(kind) in ("x", "eps", "v", "u"):
        return

    def infinite(kind: PredictionType, t: ArrayLike, schedule: Schedule) -> Array:
        a, b = kind.plane(t, schedule=schedule)
        return ~(xp.isfinite(a) & xp.isfinite(b))

    _check_nowhere(infinite, "is infinite", kind, t, schedule)


def _check_nowhere(
    fn: Callable[..., Array],
    what: str,
    kind: PredictionType,
    t: ArrayLike,
    schedule: Schedule,
) -> None:
    """Raises where `fn` holds."""
    if is_traced(t, schedule, kind):
        return
    bad = np.atleast_1d(in_float64(fn, kind, t, schedule))
    if bad.any():
        time = np.broadcast_to(np.atleast_1d(t), bad.shape)[bad][0]
        levels = lambda schedule, t: (schedule.alpha(t), schedule.sigma(t))
        alpha, sigma = in_float64(levels, schedule, time)
        raise ValueError(
            f"a prediction of {kind} {what} at t={time} of "
            f"{schedule}: alpha={alpha}, sigma={sigma}; "
            "keep away from that time, truncate the log-SNR of the schedule, or "
            "predict 'u' or 'v', which are never singular"
        )
