"""Losses per example on arrays: `[*batch, *event]` in, `[*batch]` out.

Squared errors are means over the event and are not reduced over the batch. The batch is
the shape of `t`; `t` of shape `()` is one example. `predict_fn` is any callable
`(z, t) -> array`, its conditioning closed over.
"""

from typing import NamedTuple

import chex
import jax.numpy as jnp
from jax import Array

from diffusionflow import predictions, random
from diffusionflow._numeric import at_least_float32
from diffusionflow.objectives import Objective
from diffusionflow.predictions import AnyKind, PredictFn
from diffusionflow.schedules import Schedule


class Terms(NamedTuple):
    """What a training step knows about each example, `[*batch]` each.

    Fields:
      loss: the objective's estimate, importance weight included.
      t: training time.
      logsnr: log-SNR at `t`.
      eps_mse: squared error of the implied eps, the common unit of all objectives.
      importance: density of the objective's times over that of the proposal.
    """

    loss: Array
    t: Array
    logsnr: Array
    eps_mse: Array
    importance: Array


def objective_terms(
    key: Array | None,
    predict_fn: PredictFn,
    x: Array,
    *,
    objective: Objective,
    t: Array | None = None,
    eps: Array | None = None,
    batch_ndim: int = 1,
) -> Terms:
    """Terms of an objective at random times and noise.

    `loss = importance(t) w(t) ||q_hat - q||^2`, where q is the kind of the weighting
    and the network predicts the kind of the objective.

    Args:
      key: scalar, or typed keys `[*batch]`; None where `t` and `eps` are given.
      predict_fn: `(z, t) -> prediction` of the objective's kind.
      x: data, `[*batch, *event]`.
      objective: what is learned.
      t: times `[*batch]`; drawn from the proposal if None.
      eps: noise like `x`; standard normal if None.
      batch_ndim: leading axes of `x` that are the batch, where neither `t` nor keys of
        shape `[*batch]` tell; 0 for a single example (inside `vmap`).

    Returns:
      `Terms`. `eps_mse` is infinite where the kind says nothing of eps (x at t = 0).

    Raises:
      ValueError: no key where one is needed, or shapes that do not fit.
    """
    x = at_least_float32(x)
    schedule = objective.schedule
    if key is None and (t is None or eps is None):
        raise ValueError("key=None needs both t and eps")
    time_key, noise_key = (None, None) if key is None else random.split(key)
    if t is None:
        shape = key.shape or x.shape[:batch_ndim]
        t = (objective.proposal or objective.times).sample(time_key, shape, schedule)
    if eps is None:
        eps = random.normal(noise_key, x.shape, x.dtype)
    t = at_least_float32(t).astype(x.dtype)
    error = _squared_error(predict_fn, x, t, eps, objective.kind, schedule)
    importance = _importance(objective, t)
    weight = objective.weighting(t, schedule)
    factor = _error_ratio(objective.weighting.kind, objective.kind, t, schedule)
    return Terms(
        loss=importance * weight * factor * error,
        t=t,
        logsnr=schedule.logsnr(t),
        eps_mse=_error_ratio("eps", objective.kind, t, schedule) * error,
        importance=importance,
    )


def objective_loss(
    key: Array | None,
    predict_fn: PredictFn,
    x: Array,
    *,
    objective: Objective,
    t: Array | None = None,
    eps: Array | None = None,
    batch_ndim: int = 1,
) -> Array:
    """`objective_terms(...).loss`, `[*batch]`; arguments and errors as there."""
    terms = objective_terms(
        key, predict_fn, x, objective=objective, t=t, eps=eps, batch_ndim=batch_ndim
    )
    return terms.loss


def kind_loss(
    predict_fn: PredictFn,
    x: Array,
    t: Array,
    eps: Array,
    *,
    kind: AnyKind,
    schedule: Schedule,
) -> Array:
    """`||p_hat(z_t, t) - p||^2`, mean over the event, for a network of kind p.

    Args:
      predict_fn: `(z, t) -> prediction` of `kind`.
      x: data, `[*batch, *event]`.
      t: times, `[*batch]`.
      eps: noise like `x`.
      kind: what is predicted and compared.
      schedule: any schedule.

    Returns:
      `[*batch]`.

    Raises:
      ValueError: `t` does not begin the shape of `x`.
    """
    x = at_least_float32(x)
    t = at_least_float32(t).astype(x.dtype)
    return _squared_error(predict_fn, x, t, eps, predictions.as_kind(kind), schedule)


def cfm_loss(
    predict_fn: PredictFn, x: Array, t: Array, eps: Array, *, schedule: Schedule
) -> Array:
    """Conditional flow matching: `||w_hat(z_t, t) - (alpha' x + sigma' eps)||^2`.

    On `FlowMatching()` the target is `eps - x`. Arguments, result and errors as
    `kind_loss`.

    Source: Lipman et al. 2022, arXiv 2210.02747, eq. 9 and 14, time reversed.
    """
    return kind_loss(predict_fn, x, t, eps, kind="dz_dt", schedule=schedule)


def ddpm_loss(
    predict_fn: PredictFn, x: Array, t: Array, eps: Array, *, schedule: Schedule
) -> Array:
    """L_simple: `||eps_hat(z_t, t) - eps||^2`.

    Arguments, result and errors as `kind_loss`.

    Source: Ho et al. 2020, arXiv 2006.11239, eq. 14.
    """
    return kind_loss(predict_fn, x, t, eps, kind="eps", schedule=schedule)


def dsm_loss(
    predict_fn: PredictFn, x: Array, t: Array, eps: Array, *, schedule: Schedule
) -> Array:
    """Denoising score matching: `||s_hat(z_t, t) + eps / sigma_t||^2`, unweighted.

    Its mean over uniform t is infinite where sigma_t reaches 0: weigh it, or keep t
    away from 0. Arguments, result and errors as `kind_loss`.

    Source: Vincent 2011, Neural Computation 23(7); Song et al. 2021, arXiv 2011.13456,
    eq. 7 with weight 1.
    """
    return kind_loss(predict_fn, x, t, eps, kind="score", schedule=schedule)


def _squared_error(predict_fn, x, t, eps, kind, schedule) -> Array:
    chex.assert_equal_shape([x, eps])
    alpha = predictions.per_event(schedule.alpha(t), x)
    sigma = predictions.per_event(schedule.sigma(t), x)
    z = alpha * x + sigma * eps
    prediction = predict_fn(z, t)
    chex.assert_equal_shape([prediction, z])
    denoised = predictions.Denoised(x, eps.astype(x.dtype))
    target = predictions.from_denoised(denoised, kind=kind, t=t, schedule=schedule)
    error = (prediction.astype(x.dtype) - target) ** 2
    return jnp.mean(error, axis=tuple(range(t.ndim, x.ndim)))


def _error_ratio(kind, source, t, schedule) -> Array:
    """`||q_hat - q||^2 / ||p_hat - p||^2` at fixed z, q of `kind`, p of `source`."""
    if predictions.same_kind(kind, source):
        return jnp.ones_like(t)
    top = predictions.determinant(kind, t, schedule=schedule)
    return (top / predictions.determinant(source, t, schedule=schedule)) ** 2


def _importance(objective: Objective, t: Array) -> Array:
    if objective.proposal is None:
        return jnp.ones_like(t)
    wanted = objective.times.density(t, objective.schedule)
    return wanted / objective.proposal.density(t, objective.schedule)
