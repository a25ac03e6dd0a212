"""Residuals that vanish at the flow map alone.

With the jump `Phi = A z + B P(z, t, s)` of `jumps` and the rate `w = dz_dt`,

    E = d/dt Phi along the flow    = B' (P - p) + B (dP/dt - a' x - b' eps),
    L = d/ds Phi - w(Phi, s),
    S = Phi_{t->s} - Phi_{m->s}(Phi_{t->m}),                          s < m < t,

where `dP/dt = w.grad P + dP/dt|_z`, p is the one-time prediction `a x + b eps`, and '
is the derivative in t. Each is 0 for all times, with P(z, t, t) = p, at one map only.

E from data alone: with a pair (x, eps) in place of `E[x|z]` and `E[eps|z]` it is right
in the mean, so that its target can be regressed on if it is a constant,

    target = stop_gradient(P - sign(B) omega E),    omega > 0.

Of u on flow matching at omega = 1 this is MeanFlow, of v on the cosine schedule at
s = 0 and omega = cos of the angle the consistency training of TrigFlow. With its
gradient kept, the variance of the pair is traded for a wrong map. Dividing by B', as
the form of the average velocity suggests, fails where B' changes its sign.

L and S need w of a network or a teacher; all gradients of the map may be kept there.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from diffusionflow import predictions
from diffusionflow._dataclass import is_traced
from diffusionflow._numeric import in_float64
from diffusionflow.distillation.jumps import TwoTimeFn, coefficients, jump
from diffusionflow.predictions import (
    AnyKind,
    Denoised,
    DenoiseFn,
    as_kind,
    as_prediction,
    from_denoised,
    per_event,
)
from diffusionflow.schedules import Schedule, as_schedule


class Residual(NamedTuple):
    """A residual, and what it is the residual of.

    Fields:
      prediction: of the network, P (E) or `d/ds Phi` (L), `[*batch, *event]`.
      residual: like `prediction`; 0 for the flow map.
    """

    prediction: Array
    residual: Array


def eulerian_residual(
    predict_fn: TwoTimeFn,
    z: Array,
    t: Array,
    s: Array,
    source: Denoised,
    *,
    tangent: Denoised | None = None,
    warmup: ArrayLike = 1.0,
    kind: AnyKind,
    schedule: Schedule,
) -> Residual:
    """Computes E, the rate of `Phi_{t->s}(z)` along the flow, by one forward-mode pass.

    `E = B' (P - p) + warmup B (dP/dt - a' x - b' eps)`. Gradients are those of all
    terms that depend on the network; `eulerian_loss` stops them where it must.

    Args:
      predict_fn: `(z, t, s) -> prediction` of `kind`.
      z: noised data, `[*batch, *event]`.
      t: times, `[*batch]`.
      s: times to jump to, like `t`.
      source: x and eps of p: the pair that `z` is made of, or of a teacher.
      tangent: x and eps of w; None for `source`.
      warmup: 1, or less as training starts.
      kind: prediction type of the network.
      schedule: any.

    Returns:
      `Residual`; of a pair its mean given z is E.

    Raises:
      ValueError: the network has no forward mode, w is infinite at a time that is not
        traced, or shapes disagree.
    """
    z, t, s = as_arrays(z, t, s)
    kind = as_kind(kind)
    if not is_traced(t):
        check_rates(schedule, t)
    rate = from_denoised(
        source if tangent is None else tangent, kind="dz_dt", t=t, schedule=schedule
    )
    along = lambda z, t: as_prediction(predict_fn(z, t, s), z).astype(z.dtype)
    p, dp = _forward(along, (z, t), (rate.astype(z.dtype), jnp.ones_like(t)))
    own = lambda t: (
        coefficients(kind, t, s, schedule)[1],
        *kind.plane(t, schedule=schedule),
    )
    (gain, _, _), rates = jax.jvp(own, (t,), (jnp.ones_like(t),))
    gain, dgain, da, db = (per_event(each, z) for each in (gain, *rates))
    now = from_denoised(source, kind=kind, t=t, schedule=schedule).astype(z.dtype)
    turn = dp - (da * source.x.astype(z.dtype) + db * source.eps.astype(z.dtype))
    ramp = per_event(jnp.asarray(warmup, z.dtype), z)
    return Residual(p, dgain * (p - now) + ramp * gain * turn)


def lagrangian_residual(
    predict_fn: TwoTimeFn,
    z: Array,
    t: Array,
    s: Array,
    denoise_fn: DenoiseFn,
    *,
    kind: AnyKind,
    schedule: Schedule,
) -> Residual:
    """Computes L, `d/ds Phi_{t->s}(z) - w(Phi, s)`, with w a constant.

    Args:
      predict_fn: `(z, t, s) -> prediction` of `kind`.
      z: noised data, `[*batch, *event]`.
      t: times, `[*batch]`.
      s: times to jump to, like `t`.
      denoise_fn: `(z, t) -> Denoised`, the teacher that gives w; called at (Phi, s).
      kind: prediction type of the network.
      schedule: any.

    Returns:
      `Residual`, with `d/ds Phi` as the prediction.

    Raises:
      ValueError: as `eulerian_residual`, with w at s.
    """
    z, t, s = as_arrays(z, t, s)
    if not is_traced(s):
        check_rates(schedule, s)

    def move(s: Array) -> Array:
        p = predict_fn(z, t, s)
        return jump(p, z=z, t=t, s=s, kind=kind, schedule=schedule)

    phi, rate = _forward(move, (s,), (jnp.ones_like(s),))
    denoised = denoise_fn(jax.lax.stop_gradient(phi), s)
    target = from_denoised(denoised, kind="dz_dt", t=s, schedule=schedule)
    return Residual(rate, rate - jax.lax.stop_gradient(target.astype(z.dtype)))


def check_rates(schedule: Schedule, t: ArrayLike) -> None:
    """Raises where alpha' or sigma' is infinite, as E and L cannot be there.

    Args:
      schedule: any; a traced one cannot be checked and passes.
      t: times; of traced ones, which may be any, the ends are looked at.

    Raises:
      ValueError: a rate is infinite.
    """
    if is_traced(as_schedule(schedule)):
        return
    times = np.array([0.0, 1.0]) if is_traced(t) else np.asarray(t)
    rates = in_float64(lambda own, t: own.derivatives(t), schedule, times)
    bad = ~(np.isfinite(rates[0]) & np.isfinite(rates[1]))
    if bad.any():
        raise ValueError(
            f"alpha' or sigma' of {schedule} is infinite at t={times[bad].ravel()[0]}, "
            "where no rate dz_dt is finite: train on schedules.FlowMatching(), and "
            "take a teacher there by predictions.reschedule(denoise_fn, source=..., "
            "target=schedules.FlowMatching())"
        )


def as_arrays(z: Array, t: ArrayLike, s: ArrayLike) -> tuple[Array, Array, Array]:
    """Checks z and two times; casts them to one type, and the times to one shape.

    Raises:
      ValueError: an array is of integers, or a time that is not traced leaves [0, 1].
    """
    z, t = predictions.as_input(z, t)
    _, s = predictions.as_input(z, s)
    return z, t.astype(z.dtype), jnp.broadcast_to(s.astype(z.dtype), t.shape)


def _forward(fn: Callable[..., Array], primals: Any, tangents: Any) -> Any:
    """Calls `jax.jvp`; its error says what to do where there is no forward mode."""
    push = lambda primals, tangents: jax.jvp(fn, primals, tangents)
    try:
        if is_traced(primals) and _is_stuck(jax.make_jaxpr(push)(primals, tangents)):
            raise TypeError("no forward-mode derivative of a jax.custom_vjp")
        return push(primals, tangents)
    except (TypeError, NotImplementedError) as error:
        text = str(error).lower()
        if not any(word in text for word in ("forward-mode", "jvp", "differentiation")):
            raise
        raise ValueError(
            "this loss differentiates the network by jax.jvp, which a part of it does "
            "not support (such as fused attention, or any jax.custom_vjp): use its "
            "plain "
            'form, such as jax.nn.dot_product_attention(implementation="xla"), or '
            f"semigroup_loss or progressive_targets, which need no jvp: {error}"
        ) from error


def _is_stuck(program: Any) -> bool:
    """Returns whether a program holds a forward pass of a custom reverse mode.

    Of a traced one, JAX itself finds that when the program is compiled.
    """
    program = getattr(program, "jaxpr", program)
    inner = [
        part
        for equation in program.eqns
        for value in equation.params.values()
        for part in (value if isinstance(value, tuple | list) else [value])
        if hasattr(getattr(part, "jaxpr", part), "eqns")
    ]
    stuck = any(equation.primitive.name == "custom_lin" for equation in program.eqns)
    return stuck or any(map(_is_stuck, inner))
