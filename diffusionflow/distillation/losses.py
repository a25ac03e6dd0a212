"""Losses of flow maps by their residuals: Eulerian, Lagrangian, semigroup.

All are functions of arrays, per example, with the target a constant where its gradient
would be wrong. With a teacher E, L and S are 0 at their optimum; with pairs E keeps
the variance of the pair.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from diffusionflow._dataclass import check_bound
from diffusionflow.distillation.distances import Metric, StepFn, squared
from diffusionflow.distillation.jumps import (
    TwoTimeFn,
    compose_jumps,
    jump,
    jump_sign,
)
from diffusionflow.distillation.residuals import (
    as_arrays,
    check_rates,
    eulerian_residual,
    lagrangian_residual,
)
from diffusionflow.predictions import (
    AnyKind,
    Denoised,
    DenoiseFn,
    as_prediction,
    per_event,
)
from diffusionflow.schedules import Schedule

WeightFn = Callable[[Array, Array], Array]


def eulerian_loss(
    predict_fn: TwoTimeFn,
    z: Array,
    t: Array,
    s: Array,
    source: Denoised,
    *,
    tangent: Denoised | None = None,
    kind: AnyKind,
    schedule: Schedule,
    metric: Metric = squared,
    weight_fn: WeightFn | None = None,
    omega_fn: WeightFn | None = None,
    step_fn: StepFn | None = None,
    warmup: ArrayLike = 1.0,
) -> Array:
    """Trains a flow map by E: `metric(P, stop_gradient(P - sign(B) omega E))`.

    MeanFlow: u on flow matching, `source` the pair. Improved MeanFlow: `tangent` the
    network's own diagonal. sCM, TrigFlow: v on `Cosine`, s = 0, omega the cosine of
    the angle, `step_fn=Normalized()`, a `warmup`. Distillation: `source` of a teacher.
    With u on flow matching E and targets are finite everywhere; errors of x count 1/t
    near the data.

    Args:
      predict_fn: `(z, t, s) -> prediction` of `kind`; it is differentiated in forward
        mode.
      z: noised data, `[*batch, *event]`.
      t: times, `[*batch]`.
      s: times to jump to, like `t`; those with s = t train the diagonal.
      source: x and eps of p: the pair that `z` is made of, or `teacher(z, t)`; see
        `guided_source` for guidance.
      tangent: x and eps of w, along which P is differentiated; None for `source`.
      kind: prediction type of the network.
      schedule: any whose rates are finite.
      metric: `squared`, or a substitute in many dimensions, `(prediction, target,
        batch_ndim) -> [*batch]`.
      weight_fn: `(t, s) -> [*batch]`, factor of the loss; None for 1.
      omega_fn: `(t, s) -> [*batch]`, positive factor of the step; None for 1.
      step_fn: `(step, batch_ndim) -> step`, such as `Normalized()`; None for as it is.
      warmup: scalar in [0, 1]; 0 trains P as the one-time prediction. See
        `tangent_warmup`.

    Returns:
      `[*batch]`. At its optimum a loss of pairs is not 0, and it need not fall while
      samples improve.

    Raises:
      ValueError: the network has no forward mode (fused attention), w is infinite at a
        time of `t`, or may be at traced times (`predictions.reschedule` leads to flow
        matching), or shapes disagree.

    Source: Geng et al. 2025, arXiv 2505.13447, for u on flow matching; Lu and
    Song 2024, arXiv 2410.11081; Boffi et al. 2025, arXiv 2505.18825, Eulerian equation.

    Example:
      >>> import jax.numpy as jnp
      >>> from diffusionflow import predictions, schedules
      >>> pair = predictions.Denoised(jnp.zeros((3, 2)), jnp.ones((3, 2)))
      >>> t, s = jnp.array([0.9, 0.5, 0.5]), jnp.array([0.0, 0.1, 0.5])
      >>> net = lambda z, t, s: z / predictions.per_event(t, z)  # all data are 0
      >>> print(eulerian_loss(
      ...     net, t[:, None] * pair.eps, t, s, pair, kind="u",
      ...     schedule=schedules.FlowMatching(),
      ... ))
      [0. 0. 0.]
    """
    z, t, s = as_arrays(z, t, s)
    check_bound("warmup", warmup, lambda part: 0 <= part <= 1, "in [0, 1]")
    check_rates(schedule, t)
    p, residual = eulerian_residual(
        predict_fn,
        z,
        t,
        s,
        source,
        tangent=tangent,
        warmup=warmup,
        kind=kind,
        schedule=schedule,
    )
    step = -jnp.asarray(jump_sign(kind, schedule=schedule), z.dtype) * residual
    if omega_fn is not None:
        step = per_event(omega_fn(t, s), z) * step
    if step_fn is not None:
        step = step_fn(step, t.ndim)
    target = jax.lax.stop_gradient(p + step)
    return weighted(metric(p, target, t.ndim), weight_fn, t, s)


def lagrangian_loss(
    predict_fn: TwoTimeFn,
    z: Array,
    t: Array,
    s: Array,
    denoise_fn: DenoiseFn,
    *,
    kind: AnyKind,
    schedule: Schedule,
    metric: Metric = squared,
    weight_fn: WeightFn | None = None,
) -> Array:
    """Trains a flow map by L: `metric(d/ds Phi, stop_gradient(w(Phi, s)))`.

    With a teacher it is 0 at the flow map of the teacher. From data alone,
    `denoise_fn` is the network's own diagonal (or its EMA's), which needs its own loss
    besides this one, such as `losses.kind_loss`.

    Args:
      predict_fn: `(z, t, s) -> prediction` of `kind`; differentiated in forward mode
        with respect to s alone.
      z: noised data, `[*batch, *event]`.
      t: times, `[*batch]`.
      s: times to jump to, like `t`.
      denoise_fn: `(z, t) -> Denoised`, the teacher.
      kind: prediction type of the network.
      schedule: any whose rates are finite.
      metric: as in `eulerian_loss`.
      weight_fn: `(t, s) -> [*batch]`; None for 1.

    Returns:
      `[*batch]`.

    Raises:
      ValueError: as `eulerian_loss`, with w at s.

    Source: Boffi et al. 2024, arXiv 2406.07507, Lagrangian map distillation; 2025,
    arXiv 2505.18825, self-distillation.
    """
    z, t, s = as_arrays(z, t, s)
    check_rates(schedule, s)
    rate, residual = lagrangian_residual(
        predict_fn, z, t, s, denoise_fn, kind=kind, schedule=schedule
    )
    target = jax.lax.stop_gradient(rate - residual)
    return weighted(metric(rate, target, t.ndim), weight_fn, t, s)


def semigroup_loss(
    predict_fn: TwoTimeFn,
    z: Array,
    t: Array,
    m: Array,
    s: Array,
    *,
    target_fn: TwoTimeFn | None = None,
    kind: AnyKind,
    schedule: Schedule,
    metric: Metric = squared,
    weight_fn: WeightFn | None = None,
) -> Array:
    """Trains a flow map by S: one jump t -> s is two, t -> m -> s, of a constant map.

    `metric(P(z, t, s), stop_gradient(target))` with the target of `compose_jumps`: the
    weighted mean of two average velocities where the kind is u. The diagonal needs its
    own loss besides this one. With a finest step 1/M the optimum is M steps of DDIM.

    Args:
      predict_fn: `(z, t, s) -> prediction` of `kind`.
      z: noised data, `[*batch, *event]`.
      t: times, `[*batch]`.
      m: times between, like `t`.
      s: times to jump to, like `t`.
      target_fn: the map of the target, such as that of averaged parameters; None for
        `predict_fn` as it is.
      kind: prediction type of both.
      schedule: any.
      metric: as in `eulerian_loss`.
      weight_fn: `(t, s) -> [*batch]`; None for 1.

    Returns:
      `[*batch]`; 0 where s = m = t.

    Raises:
      ValueError: as `jump_coefficients`, or shapes disagree.

    Source: Frans et al. 2024, arXiv 2410.12557 (u, halved intervals); Boffi et al.
    2025, arXiv 2505.18825.
    """
    z, t, s = as_arrays(z, t, s)
    _, m, _ = as_arrays(z, m, s)
    settings: Any = dict(kind=kind, schedule=schedule)
    fn = predict_fn if target_fn is None else target_fn
    first = fn(z, t, m)
    second = fn(jump(first, z=z, t=t, s=m, **settings), m, s)
    target = compose_jumps(first, second, z=z, t=t, m=m, s=s, **settings)
    p = as_prediction(predict_fn(z, t, s), z).astype(z.dtype)
    loss = metric(p, jax.lax.stop_gradient(target), t.ndim)
    return weighted(loss, weight_fn, t, s)


def weighted(loss: Array, weight_fn: WeightFn | None, t: Array, s: Array) -> Array:
    """Multiplies a loss by its weight, if there is one.

    Raises:
      ValueError: the weight is neither a scalar nor one number for each example.
    """
    if weight_fn is None:
        return loss
    weight = jnp.asarray(weight_fn(t, s))
    if weight.shape not in ((), loss.shape):
        raise ValueError(
            f"weight_fn gives shape {weight.shape}: must be () or {loss.shape}, one "
            "number for each example"
        )
    return weight * loss
