"""Conversions from one prediction type to another, through `Denoised`."""

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from diffusionflow import _xp as xp
from diffusionflow._dataclass import check_instance
from diffusionflow._numeric import at_least_float32
from diffusionflow.predictions.denoisers import Denoised, as_prediction
from diffusionflow.predictions.kinds import (
    AnyKind,
    as_kind,
    check_determined,
    check_finite_kind,
    check_sigma_positive,
    same_kind,
)
from diffusionflow.schedules import Schedule


def to_denoised(
    value: Array, *, kind: AnyKind, z: Array, t: ArrayLike, schedule: Schedule
) -> Denoised:
    """Converts a prediction of any type to `x` and `eps`.

    Args:
      value: the prediction, `[*batch, *event]`.
      kind: prediction type of `value`.
      z: where it was made, `[*batch, *event]`.
      t: its time, scalar or `[*batch]`.
      schedule: any schedule.

    Returns:
      `Denoised`; not finite where `kind` is singular (see `check_determined`).

    Raises:
      ValueError: `t` does not begin the shape of `z`, or `value` is no floating array
        of the shape of `z`.
    """
    check_instance("schedule", schedule, "schedules.FlowMatching()")
    kind, z = as_kind(kind), at_least_float32(z)
    value = as_prediction(value, z).astype(z.dtype)
    alpha = per_event(schedule.alpha(t), z)
    sigma = per_event(schedule.sigma(t), z)
    match str(kind):
        case "x":
            return Denoised(value, (z - alpha * value) / sigma)
        case "eps":
            return Denoised((z - sigma * value) / alpha, value)
        case "score":
            # at sigma = 0 any score has the same z: eps is lost, not 0
            eps = jnp.where(sigma > 0, -sigma * value, jnp.nan)
            return Denoised((z + sigma**2 * value) / alpha, eps)
    a, b = (per_event(part, z) for part in kind.plane(t, schedule=schedule))
    det = b * alpha - a * sigma
    return Denoised((b * z - sigma * value) / det, (alpha * value - a * z) / det)


@xp.quiet
def from_denoised(
    denoised: Denoised, *, kind: AnyKind, t: ArrayLike, schedule: Schedule
) -> Array:
    """Converts `denoised` to a prediction of type `kind`, `a x + b eps`.

    Args:
      denoised: x and eps, `[*batch, *event]` each.
      kind: prediction type of the result.
      t: scalar or `[*batch]`.
      schedule: any schedule.

    Returns:
      `[*batch, *event]`.

    Raises:
      ValueError: `t` does not begin the shape of the arrays.
    """
    kind = as_kind(kind)
    if str(kind) == "x":
        return denoised.x
    if str(kind) == "eps":
        return denoised.eps
    a, b = (per_event(part, denoised.eps) for part in kind.plane(t, schedule=schedule))
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
    """Converts a prediction of type `source` to type `target`, at the same z and t.

    Args:
      value: `[*batch, *event]`.
      source: prediction type of `value`.
      target: prediction type of the result.
      z: `[*batch, *event]`.
      t: scalar or `[*batch]`.
      schedule: any schedule.

    Returns:
      `[*batch, *event]`; `value` itself where the kinds are equal.

    Raises:
      ValueError: at a `t` that is not traced, `source` is singular (between eps and
        score only sigma matters, and alpha may be 0) or `target` is infinite, such as
        the score at sigma = 0; `t` does not begin the shape of `z`; or `value` is no
        floating array of the shape of `z`.

    Example:
      >>> from diffusionflow import schedules
      >>> x, eps = jnp.array([2.0]), jnp.array([-1.0])
      >>> z = 0.75 * x + 0.25 * eps
      >>> flow = schedules.FlowMatching()
      >>> print(convert(eps - x, source="u", target="x", z=z, t=0.25, schedule=flow))
      [2.]
    """
    value = as_prediction(value, z)
    if same_kind(source, target):
        return value
    if {str(as_kind(source)), str(as_kind(target))} == {"eps", "score"}:
        check_sigma_positive(source, t, schedule=schedule)
        value = at_least_float32(value)
        sigma = per_event(schedule.sigma(t), value)
        return -sigma * value if str(source) == "score" else -value / sigma
    check_determined(source, t, schedule=schedule)
    check_finite_kind(target, t, schedule=schedule)
    denoised = to_denoised(value, kind=source, z=z, t=t, schedule=schedule)
    return from_denoised(denoised, kind=target, t=t, schedule=schedule)


def per_event(value: Array, like: Array, name: str = "t") -> Array:
    """Reshapes and casts `value` to multiply `like`.

    Args:
      value: `()` or `[*batch]`.
      like: `[*batch, *event]`.
      name: of the value, for the message.

    Raises:
      ValueError: the shape of `value` does not begin the shape of `like`.
    """
    if like.shape[: value.ndim] != value.shape:
        raise ValueError(
            f"{name} of shape {value.shape} does not fit an array of shape "
            f"{like.shape}: it must be scalar or [*batch], its leading axes"
        )
    return value.reshape(value.shape + (1,) * (like.ndim - value.ndim)).astype(
        like.dtype
    )
