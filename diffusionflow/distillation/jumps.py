"""DDIM's jump from t to s for every prediction type.

A two-time prediction P of kind `(a, b)` at `(z, t, s)` is what DDIM must be given at
`(z, t)` to land at `z_s`. With `D = b alpha_t - a sigma_t`,

    z_s = A z + B P,    A = (alpha_s b - sigma_s a) / D,
                        B = (sigma_s alpha_t - alpha_s sigma_t) / D.

At s = t it is the ordinary prediction. `A = 1, B = 0` there for every P, and the sign
of B is the same for all s < t: + for x, score and edm_f, - for eps, u, v and dz_dt. The
literature has this map under other names:

| kind and schedule  | A, B                                | published as            |
|--------------------|-------------------------------------|-------------------------|
| u, flow matching   | 1, -(t - s)                         | average velocity        |
| v, cosine          | cos h, -sin h; h the angle of t - s | TrigFlow, sCM (s = 0)   |
| x, any             | sigma_s / sigma_t, alpha_s - ...    | g of trajectory models  |
| edm_f, EDM's       | at s = 0 sd^2 / R^2, sigma_t sd / R | consistency model       |

with sd the standard deviation of the data and R^2 = sigma_t^2 + sd^2.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from diffusionflow import _xp as xp
from diffusionflow import predictions
from diffusionflow._dataclass import check_instance, is_traced
from diffusionflow._numeric import at_least_float32, floating, in_float64
from diffusionflow.predictions import AnyKind, as_kind, as_prediction, per_event
from diffusionflow.predictions.checks import ROUNDING, check_float
from diffusionflow.schedules import Schedule, as_schedule

TwoTimeFn = Callable[[Array, Array, Array], Array]


def jump_coefficients(
    kind: AnyKind, t: ArrayLike, s: ArrayLike, *, schedule: Schedule
) -> tuple[Array, Array]:
    """Computes A and B of DDIM's jump `z_s = A z + B p` from a prediction p at t.

    Args:
      kind: prediction type of p.
      t: times, scalar or `[*batch]`.
      s: times to jump to, like `t`; later ones than `t` too.
      schedule: any.

    Returns:
      A and B, of the shape of `t` and `s`: NumPy float64 where all is concrete.

    Raises:
      ValueError: p does not determine where to jump, as eps at alpha = 0, or a time is
        outside [0, 1] or an integer. (Traced times cannot be checked, but for their
        type, and pass.)

    Example:
      >>> from diffusionflow import schedules
      >>> a, b = jump_coefficients("u", 0.75, 0.25, schedule=schedules.FlowMatching())
      >>> print(a, b)
      1.0 -0.5
    """
    check_instance("schedule", schedule, "schedules.FlowMatching()")
    kind = as_kind(kind)
    t, s = _times(t, s)
    for name, time in (("t", t), ("s", s)):
        predictions.check_unit_interval(name, time, ROUNDING)
    _check_jump(kind, t, s, schedule)
    return coefficients(kind, t, s, schedule)


def jump(
    p: Array, *, z: Array, t: ArrayLike, s: ArrayLike, kind: AnyKind, schedule: Schedule
) -> Array:
    """Jumps from t to s: `z_s = A z + B p`, the step of DDIM.

    Args:
      p: prediction of `kind` at `(z, t)`, `[*batch, *event]`.
      z: noised data at t, like `p`.
      t: times, scalar or `[*batch]`.
      s: times to jump to, like `t`.
      kind: prediction type of p.
      schedule: any.

    Returns:
      z at s, like `z`.

    Raises:
      ValueError: as `jump_coefficients`, or the shapes disagree.
    """
    z = predictions.as_data(z, "z")
    a, b = _on(z, kind, t, s, schedule)
    return a * z + b * as_prediction(p, z).astype(z.dtype)


def inverse_jump(
    z_s: Array,
    *,
    z: Array,
    t: ArrayLike,
    s: ArrayLike,
    kind: AnyKind,
    schedule: Schedule,
) -> Array:
    """Finds the prediction with which the jump lands: `p = (z_s - A z) / B`.

    The target of progressive and of one-step distillation. Near s = t it is a ratio of
    small numbers: in float32 its error is about 1e-7 over `t - s`.

    Args:
      z_s: where to land, `[*batch, *event]`.
      z: from where, like `z_s`.
      t: times of `z`, scalar or `[*batch]`.
      s: times of `z_s`, other than `t`.
      kind: prediction type of the result.
      schedule: any.

    Returns:
      A prediction of `kind`, like `z`.

    Raises:
      ValueError: as `jump_coefficients`, or the shapes disagree.
    """
    z, z_s = predictions.as_data(z, "z"), predictions.as_data(z_s, "z_s")
    predictions.check_same_shape("z_s", z_s, "z", z)
    a, b = _on(z, kind, t, s, schedule)
    return (z_s.astype(z.dtype) - a * z) / b


def compose_jumps(
    first: Array,
    second: Array,
    *,
    z: Array,
    t: ArrayLike,
    m: ArrayLike,
    s: ArrayLike,
    kind: AnyKind,
    schedule: Schedule,
) -> Array:
    """Finds the prediction whose one jump t -> s is two jumps t -> m -> s.

    `p = (A_ms B_tm first + B_ms (second - c z)) / B_ts`, with `c = (a_m b_t - b_m a_t)
    / D_t`: a weighted mean where (a, b) keeps its direction (x, eps, u), and no
    difference of nearly equal z anywhere.

    Args:
      first: prediction of `kind` at `(z, t)`, `[*batch, *event]`.
      second: the same at `(z_m, m)`, with `z_m = jump(first, z=z, t=t, s=m, ...)`.
      z: noised data at t, like `first`.
      t: times, scalar or `[*batch]`.
      m: times between, like `t`.
      s: times to land at, like `t`.
      kind: prediction type of all three.
      schedule: any.

    Returns:
      A prediction of `kind` at `(z, t)`, like `z`; `first` where s = t, and any lands.

    Raises:
      ValueError: as `jump_coefficients`, or the shapes disagree.
    """
    kind, z = as_kind(kind), predictions.as_data(z, "z")
    first, second = (as_prediction(p, z).astype(z.dtype) for p in (first, second))
    if str(kind) == "score":
        late, middle = (per_event(jnp.asarray(schedule.sigma(at)), z) for at in (t, m))
        given: Any = dict(z=z, t=t, m=m, s=s, kind="eps", schedule=schedule)
        return -compose_jumps(-late * first, -middle * second, **given) / late
    _, late = _on(z, kind, t, m, schedule)
    kept, early = _on(z, kind, m, s, schedule)
    _, whole = _on(z, kind, t, s, schedule)
    turned = per_event(jnp.asarray(_turn(kind, *_times(t, m), schedule)), z)
    stays = whole == 0
    mean = (kept * late * first + early * (second - turned * z)) / jnp.where(
        stays, 1, whole
    )
    return jnp.where(stays, first, mean)


def _turn(kind: Any, t: Array, m: Array, schedule: Schedule) -> Array:
    """Computes how far (a, b) at m points along z_t: `(a_m b_t - b_m a_t) / D_t`."""
    (a, b), (a_m, b_m) = (kind.plane(at, schedule=schedule) for at in (t, m))
    return (a_m * b - b_m * a) / predictions.determinant(kind, t, schedule=schedule)


def jump_sign(kind: AnyKind, *, schedule: Schedule) -> Array:
    """Returns the sign of B for every s < t, which is that of `-D`: one for each kind.

    The derivative of B with respect to t has no such sign (v on flow matching).

    Args:
      kind: any kind.
      schedule: any.

    Returns:
      1 or -1.
    """
    half = lambda kind, schedule: predictions.determinant(kind, 0.5, schedule=schedule)
    return -xp.sign(in_float64(half, as_kind(kind), as_schedule(schedule)))


def _times(t: ArrayLike, s: ArrayLike) -> tuple[Array, Array]:
    """Converts both times to NumPy's floats, or both to JAX's of one type."""
    for name, time in (("t", t), ("s", s)):
        check_float(name, time, "write a float in [0, 1]; level i of T is t = i / T")
    if xp.on_host(t, s):
        return floating(t), floating(s)
    given = [at_least_float32(at).dtype for at in (t, s) if isinstance(at, jax.Array)]
    t, s = at_least_float32(t), at_least_float32(s)
    dtype = max(given, key=lambda dtype: dtype.itemsize)
    return t.astype(dtype), s.astype(dtype)


@xp.quiet
def coefficients(
    kind: Any, t: Array, s: Array, schedule: Schedule
) -> tuple[Array, Array]:
    """Computes `jump_coefficients` of checked arguments; 1, 0 if t = s is singular."""
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    if str(kind) == "score":  # -eps / sigma, which is infinite at sigma = 0
        kept, gain = coefficients(as_kind("eps"), t, s, schedule)
        return kept, -sigma * gain
    alpha_s, sigma_s = schedule.alpha(s), schedule.sigma(s)
    a, b = kind.plane(t, schedule=schedule)
    det = b * alpha - a * sigma
    stays = (det == 0) & (t == s)
    det = xp.where(stays, 1, det)
    kept = (alpha_s * b - sigma_s * a) / det
    gain = (sigma_s * alpha - alpha_s * sigma) / det
    return xp.where(stays, 1, kept), xp.where(stays, 0, gain)


def _on(
    z: Array, kind: AnyKind, t: ArrayLike, s: ArrayLike, schedule: Schedule
) -> tuple[Array, Array]:
    """Computes A and B, shaped to multiply z."""
    a, b = jump_coefficients(kind, t, s, schedule=schedule)
    return per_event(jnp.asarray(a), z), per_event(jnp.asarray(b), z)


def _check_jump(kind: Any, t: Array, s: Array, schedule: Schedule) -> None:
    """Raises where B is not finite, but for t = s, where nothing moves."""
    if is_traced(t, s, kind, schedule):
        return
    moves = np.asarray(t) != np.asarray(s)
    if moves.any():
        start = np.broadcast_to(np.asarray(t), moves.shape)[moves]
        predictions.check_determined(kind, start, schedule=schedule)
