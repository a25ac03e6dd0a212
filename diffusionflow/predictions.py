"""What a network may predict, and every way from one prediction to another.

A kind is a vector `(a, b)` in the plane of data and noise: it predicts
`p = a x + b eps`. Together with `z = alpha x + sigma eps` that is a 2x2 system with
determinant `D = b alpha - a sigma`:

    x = (b z - sigma p) / D,    eps = (alpha p - a z) / D,

and at fixed z an error of p is `D / alpha` times the error of eps. Conversions go
through `Denoised(x, eps)`, which keeps both, so nothing is lost where alpha or sigma
vanishes.

Kinds by name: "x", "eps", "v" = alpha eps - sigma x, "u" = eps - x,
"dz_dt" = alpha' x + sigma' eps, "score" = -eps / sigma; or a value such as
`edm_f(sigma_data=0.5)`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from diffusionflow import schedules
from diffusionflow._dataclass import (
    as_callable,
    check_bound,
    check_name,
    cost,
    is_traced,
    register,
    static,
)
from diffusionflow._numeric import at_least_float32, in_float64
from diffusionflow.schedules import Schedule

PredictFn = Callable[[Array, Array], Array]
NAMES = ("x", "eps", "v", "u", "dz_dt", "score")
AMBIGUOUS = {
    "velocity": '"u" (eps - x), "v" (alpha eps - sigma x) or "dz_dt"',
    "epsilon": '"eps"',
    "noise": '"eps"',
    "sample": '"x"',
    "x0": '"x"',
}


class Denoised(NamedTuple):
    """The data and the noise that a prediction implies, `[*batch, *event]` each."""

    x: Array
    eps: Array


DenoiseFn = Callable[[Array, Array], Denoised]


@register
class Kind:
    """A kind of prediction without parameters.

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

    def plane(self, schedule: Schedule, t: ArrayLike) -> tuple[Array, Array]:
        """The coefficients `(a, b)` of `a x + b eps`, each of the shape of `t`."""
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        zero, one = jnp.zeros_like(alpha), jnp.ones_like(alpha)
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
        return schedules.derivatives(schedule, t)

    def __str__(self) -> str:
        return self.name


@register
class EdmF:
    """EDM's network output F, the kind of unit variance on data of std `sigma_data`.

    `a = sigma / (sigma_data S)`, `b = -sigma_data alpha / S`,
    `S = sqrt(sigma^2 + sigma_data^2 alpha^2)`: finite at both ends.

    Source: Karras et al. 2022, arXiv 2206.00364, table 1, written for any schedule.
    """

    sigma_data: Any = 0.5

    def __post_init__(self) -> None:
        positive = lambda std: std > 0
        check_bound("sigma_data", self.sigma_data, positive, "positive")

    def plane(self, schedule: Schedule, t: ArrayLike) -> tuple[Array, Array]:
        """As `Kind.plane`."""
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        norm = jnp.sqrt(sigma**2 + self.sigma_data**2 * alpha**2)
        return sigma / (self.sigma_data * norm), -self.sigma_data * alpha / norm

    def __str__(self) -> str:
        return f"edm_f(sigma_data={self.sigma_data})"


edm_f = EdmF
AnyKind = str | Kind | EdmF


def as_kind(kind: Any) -> Any:
    """A `Kind` for a name; any other value as it is."""
    return Kind(kind) if isinstance(kind, str) else kind


def same_kind(a: AnyKind, b: AnyKind) -> bool:
    """Whether two kinds are known to be equal without looking at arrays."""
    a, b = as_kind(a), as_kind(b)
    return a is b or (isinstance(a, Kind) and isinstance(b, Kind) and a == b)


def determinant(kind: AnyKind, t: ArrayLike, *, schedule: Schedule) -> Array:
    """`D = b alpha - a sigma`; zero where `kind` does not determine x and eps.

    Args:
      kind: any kind, with `(a, b)` from its `plane`.
      t: times, any shape.
      schedule: any schedule.

    Returns:
      An array of the shape of `t`.
    """
    a, b = as_kind(kind).plane(schedule, t)
    return b * schedule.alpha(t) - a * schedule.sigma(t)


def mse_ratio(kind: AnyKind, t: ArrayLike, *, schedule: Schedule) -> Array:
    """`||p_hat - p||^2 / ||eps_hat - eps||^2 = (D / alpha)^2` at fixed z.

    Args:
      kind: of p.
      t: times, any shape.
      schedule: any schedule.

    Returns:
      An array of the shape of `t`; infinite at alpha = 0 where D is not zero.
    """
    if str(kind) == "eps":
        return jnp.ones_like(at_least_float32(t))
    return (determinant(kind, t, schedule=schedule) / schedule.alpha(t)) ** 2


def refuse_singular(kind: AnyKind, t: ArrayLike, *, schedule: Schedule) -> None:
    """Raises where a prediction of `kind` does not give both x and eps.

    Args:
      kind: any kind.
      t: times, any shape. Traced times cannot be looked at and pass.
      schedule: any schedule.

    Raises:
      ValueError: D is zero or not finite at a time in `t`, such as eps at alpha = 0.
    """
    kind = as_kind(kind)
    if is_traced(t, schedule, kind):
        return
    both = lambda kind, t, schedule: determinant(kind, t, schedule=schedule)
    values = np.atleast_1d(in_float64(both, kind, t, schedule))
    bad = (values == 0) | ~np.isfinite(values)
    if bad.any():
        time = np.broadcast_to(np.atleast_1d(t), values.shape)[bad][0]
        levels = lambda schedule, t: (schedule.alpha(t), schedule.sigma(t))
        alpha, sigma = in_float64(levels, schedule, time)
        raise ValueError(
            f"a prediction of {kind} does not determine both x and eps at t={time} of "
            f"{schedule}: alpha={alpha}, sigma={sigma}; "
            "keep away from that time, truncate the log-SNR of the schedule, or "
            "predict 'u' or 'v', which are never singular"
        )


def to_denoised(
    value: Array, *, kind: AnyKind, z: Array, t: ArrayLike, schedule: Schedule
) -> Denoised:
    """`x` and `eps` from a prediction of any kind.

    Args:
      value: the prediction, `[*batch, *event]`.
      kind: of `value`.
      z: where it was made, `[*batch, *event]`.
      t: its time, scalar or `[*batch]`.
      schedule: any schedule.

    Returns:
      `Denoised`; not finite where `kind` is singular (see `refuse_singular`).

    Raises:
      AssertionError: shapes disagree.
    """
    chex.assert_equal_shape([value, z])
    kind, z = as_kind(kind), at_least_float32(z)
    value = value.astype(z.dtype)
    alpha = per_event(schedule.alpha(t), z)
    sigma = per_event(schedule.sigma(t), z)
    match str(kind):
        case "x":
            return Denoised(value, (z - alpha * value) / sigma)
        case "eps":
            return Denoised((z - sigma * value) / alpha, value)
        case "score":
            return Denoised((z + sigma**2 * value) / alpha, -sigma * value)
    a, b = (per_event(part, z) for part in kind.plane(schedule, t))
    det = b * alpha - a * sigma
    return Denoised((b * z - sigma * value) / det, (alpha * value - a * z) / det)


def from_denoised(
    denoised: Denoised, *, kind: AnyKind, t: ArrayLike, schedule: Schedule
) -> Array:
    """`a x + b eps`: the prediction of `kind` that `denoised` amounts to.

    Args:
      denoised: x and eps, `[*batch, *event]` each.
      kind: of the result.
      t: scalar or `[*batch]`.
      schedule: any schedule.

    Returns:
      `[*batch, *event]`.
    """
    kind = as_kind(kind)
    if str(kind) == "x":
        return denoised.x
    if str(kind) == "eps":
        return denoised.eps
    a, b = (per_event(part, denoised.eps) for part in kind.plane(schedule, t))
    if str(kind) == "score":  # a = 0, and x may be infinite
        return b * denoised.eps
    return a * denoised.x + b * denoised.eps


def convert(
    value: Array,
    *,
    source: AnyKind,
    target: AnyKind,
    z: Array,
    t: ArrayLike,
    schedule: Schedule,
) -> Array:
    """A prediction of kind `source` as one of kind `target`, at the same z and t.

    Args:
      value: `[*batch, *event]`.
      source: kind of `value`.
      target: kind of the result.
      z: `[*batch, *event]`.
      t: scalar or `[*batch]`.
      schedule: any schedule.

    Returns:
      `[*batch, *event]`; `value` itself where the kinds are equal.

    Raises:
      ValueError: `source` is singular at a `t` that is not traced.
      AssertionError: shapes disagree.
    """
    if same_kind(source, target):
        return value
    refuse_singular(source, t, schedule=schedule)
    denoised = to_denoised(value, kind=source, z=z, t=t, schedule=schedule)
    return from_denoised(denoised, kind=target, t=t, schedule=schedule)


@register
class Denoiser:
    """See `denoiser`."""

    predict_fn: Any
    kind: Any
    schedule: Any

    @property
    def cost(self) -> int:
        """Network calls per evaluation."""
        return cost(self.predict_fn)

    def __call__(self, z: Array, t: ArrayLike) -> Denoised:
        refuse_singular(self.kind, t, schedule=self.schedule)
        value = self.predict_fn(z, at_least_float32(t))
        return to_denoised(value, kind=self.kind, z=z, t=t, schedule=self.schedule)

    def check(self, t: ArrayLike) -> None:
        """Raises a `ValueError` where the denoiser cannot be evaluated at `t`."""
        refuse_singular(self.kind, t, schedule=self.schedule)


def denoiser(predict_fn: PredictFn, *, kind: AnyKind, schedule: Schedule) -> Denoiser:
    """What samplers and likelihoods call: `(z, t) -> Denoised`.

    Args:
      predict_fn: `(z, t) -> prediction`, of `z`'s shape; a pytree (`Partial`, a
        registered callable) keeps its arrays as data under `jit`, a bare function is
        compared by identity.
      kind: of the prediction.
      schedule: the one that `t` belongs to.

    Returns:
      A registered callable with `.cost` = network calls per evaluation.

    Raises:
      ValueError: the kind is unknown.
    """
    return Denoiser(as_callable(predict_fn), as_kind(kind), schedule)


@register
class Preconditioned:
    """See `precondition`."""

    net_fn: Any
    schedule: Any
    sigma_data: Any

    @property
    def cost(self) -> int:
        """Network calls per evaluation."""
        return cost(self.net_fn)

    def __call__(self, z: Array, t: ArrayLike) -> Array:
        alpha, sigma = self.schedule.alpha(t), self.schedule.sigma(t)
        scale = 1 / jnp.sqrt((self.sigma_data * alpha) ** 2 + sigma**2)
        z = at_least_float32(z)
        return self.net_fn(per_event(scale, z) * z, sigma / (alpha + sigma))


def precondition(
    net_fn: PredictFn, *, schedule: Schedule, sigma_data: ArrayLike = 1.0
) -> Preconditioned:
    """Hands a network its input at unit scale and a time that names the log-SNR.

    `net_fn(z / sqrt(sigma_data^2 alpha^2 + sigma^2), sigma / (alpha + sigma))`. Both
    depend on the log-SNR and on `z / alpha` alone, so that the schedule of a trained
    network can be exchanged. On flow matching the time is `t` itself.

    Args:
      net_fn: `(z, time) -> array`, the bare network; time in [0, 1].
      schedule: the one that the `t` of the result belongs to.
      sigma_data: standard deviation of the data, 1 for none assumed.

    Returns:
      `predict_fn(z, t)`, a registered callable.

    Raises:
      ValueError: `sigma_data` is not positive.

    Source: the input scale is c_in of Karras et al. 2022, arXiv 2206.00364, table 1.
    """
    positive = lambda std: std > 0
    check_bound("sigma_data", sigma_data, positive, "positive")
    return Preconditioned(as_callable(net_fn), schedule, sigma_data)


@register
class Flipped:
    """See `flip_time`."""

    predict_fn: Any
    sign: int = static()

    @property
    def cost(self) -> int:
        """Network calls per evaluation."""
        return cost(self.predict_fn)

    def __call__(self, z: Array, t: ArrayLike) -> Array:
        return self.sign * self.predict_fn(z, 1 - at_least_float32(t))


def flip_time(predict_fn: PredictFn, *, kind: AnyKind) -> Flipped:
    """A network trained with t = 0 at the noise, in this library's time.

    `p(z, t) = s p_other(z, 1 - t)`. Reversing time turns `u` and `dz_dt` round, s = -1;
    every other kind keeps its sign. Flipping twice is the identity.

    Args:
      predict_fn: `(z, t) -> prediction` in the other direction of time.
      kind: of the prediction.

    Returns:
      A registered callable in this direction of time.

    Raises:
      ValueError: the kind is unknown.
    """
    reversed_sign = str(as_kind(kind)) in ("u", "dz_dt")
    return Flipped(as_callable(predict_fn), -1 if reversed_sign else 1)


def per_event(value: Array, like: Array) -> Array:
    """`value` of shape `()` or `[*batch]`, shaped and typed to multiply `like`.

    Raises:
      ValueError: the shape of `value` does not begin the shape of `like`.
    """
    if like.shape[: value.ndim] != value.shape:
        raise ValueError(
            f"times of shape {value.shape} do not fit an array of shape {like.shape}: "
            "t must be scalar or [*batch], the leading axes of the array"
        )
    return value.reshape(value.shape + (1,) * (like.ndim - value.ndim)).astype(
        like.dtype
    )
