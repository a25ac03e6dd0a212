"""The loss of an `Objective` at random times and noise."""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax.numpy as jnp
from jax import Array

from diffusionflow import predictions, random
from diffusionflow._dataclass import check_batch_ndim, check_instance
from diffusionflow.losses.limits import finite_error
from diffusionflow.losses.squared import as_arrays, as_mask
from diffusionflow.objectives import Objective, check_support
from diffusionflow.predictions import PredictFn
from diffusionflow.weightings import weight_on


class Terms(NamedTuple):
    """Per-example terms of a training step, `[*batch]` each.

    Fields:
      loss: estimate of the objective, importance weight included.
      t: training time.
      logsnr: log-SNR at `t`.
      eps_mse: eps-MSE, the squared error of the implied eps: comparable between
        objectives.
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
    mask: Array | None = None,
    batch_ndim: int = 1,
    log_variance_fn: Callable[[Array], Array] | None = None,
) -> Terms:
    """Evaluates an objective at random times and noise, per example.

    `loss = importance(t) w(t) ||q_hat - q||^2`, where q is the kind of the weighting
    and the network predicts the kind of the objective. With a learned log-variance s of
    each noise level, `importance(t) (w(t) ||q_hat - q||^2 e^-s + s)`.

    Args:
      key: scalar, or typed keys `[*batch]`; None where `t` and `eps` are given.
      predict_fn: `(z, t) -> prediction` of the objective's kind.
      x: data, `[*batch, *event]`.
      objective: training objective.
      t: times in [0, 1], `[*batch]`; a scalar means that `x` is one example. Sampled
        from the proposal if None.
      eps: noise like `x`; standard normal if None.
      mask: bool like `x`, with axes of 1 where it is the same along them: errors are
        means over the values of an event where it is True; None for all.
      batch_ndim: leading axes of `x` that are the batch, where neither `t` nor keys of
        shape `[*batch]` give it; 0 for a single example (inside `vmap`).
      log_variance_fn: s as a function of the level `sigma / (alpha + sigma)` in [0, 1],
        `[*batch]` to `[*batch]`, with parameters of its own; see `uncertainty_loss`.

    Returns:
      `Terms`. The loss is finite where the weighted error is: at the ends it is a limit
      (a score network has a finite eps-MSE at sigma = 0). `eps_mse` is infinite where
      the kind does not determine eps (x at t = 0).

    Raises:
      ValueError: no key where one is needed, times that do not fit `x` or, where they
        are not traced, leave [0, 1], a concrete proposal that never draws some of the
        objective's times, or a mask that does not fit `x` or is False for a whole
        example (a traced mask gives NaN there).
    """
    check_instance("objective", objective, "objectives.flow_matching()")
    x = predictions.as_data(x, "x")
    schedule = objective.schedule
    check_batch_ndim(batch_ndim, x.ndim)
    if key is None and (t is None or eps is None):
        raise ValueError(
            "key=None: must be a random key, unless both t and eps are given"
        )
    keys: Any = (None, None) if key is None else random.split(key)
    time_key, noise_key = keys
    if t is None:
        shape = time_key.shape or x.shape[:batch_ndim]
        t = (objective.proposal or objective.times).sample(
            time_key, shape, schedule=schedule
        )
    if eps is None:
        eps = random.normal(noise_key, x.shape, x.dtype)
    x, t = as_arrays(x, t, eps)
    mask = as_mask(mask, x, t.ndim)
    error, kind = finite_error(predict_fn, x, t, eps, objective.kind, schedule, mask)
    importance = _importance(objective, t)
    loss = weight_on(objective.weighting, kind, t, schedule=schedule) * error
    if log_variance_fn is not None:
        level = schedule.noise_level(t)
        loss = uncertainty_loss(loss, log_variance_fn(level))
    return Terms(
        loss=importance * loss,
        t=t,
        logsnr=schedule.logsnr(t),
        eps_mse=predictions.error_ratio("eps", kind, t, schedule=schedule) * error,
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
    mask: Array | None = None,
    batch_ndim: int = 1,
    log_variance_fn: Callable[[Array], Array] | None = None,
) -> Array:
    """Computes an objective's training loss per example, `objective_terms(...).loss`.

    Args:
      key: scalar, or typed keys `[*batch]`; None where `t` and `eps` are given.
      predict_fn: `(z, t) -> prediction` of the objective's kind.
      x: data, `[*batch, *event]`.
      objective: training objective.
      t: times in [0, 1], `[*batch]`; sampled from the proposal if None.
      eps: noise like `x`; standard normal if None.
      mask: of the values that count, as in `objective_terms`.
      batch_ndim: leading axes of `x` that are the batch, where nothing else gives it.
      log_variance_fn: of the level, as in `objective_terms`.

    Returns:
      `[*batch]`, mean over the event.

    Raises:
      ValueError: as `objective_terms`.

    Example:
      >>> from diffusionflow import objectives
      >>> net = lambda z, t: 0 * z  # predicts u = 0
      >>> loss = objective_loss(
      ...     None, net, jnp.array([[1.0, 2.0]]), objective=objectives.flow_matching(),
      ...     t=jnp.array([0.5]), eps=jnp.zeros((1, 2)),
      ... )
      >>> print(loss)  # the mean of (eps - x)^2
      [2.5]
    """
    terms = objective_terms(
        key,
        predict_fn,
        x,
        objective=objective,
        t=t,
        eps=eps,
        mask=mask,
        batch_ndim=batch_ndim,
        log_variance_fn=log_variance_fn,
    )
    return terms.loss


def uncertainty_loss(loss: Array, log_variance: Array) -> Array:
    """Applies uncertainty weighting `loss e^-s + s`: normalises each level's loss.

    Its minimum over s is at `s = log E[loss]`, so that every noise level then
    contributes with weight 1; at that s the network's gradient is that of the objective
    with weight `1 / E[loss | t]`. It is no longer the objective of the weighting alone.

    Args:
      loss: weighted squared errors, `[*batch]`.
      log_variance: s, `[*batch]`.

    Returns:
      `[*batch]`; it may be negative.

    Raises:
      AssertionError: shapes disagree.

    Source: Karras et al. 2024, arXiv 2312.02696, the uncertainty-based weighting (there
    s is a function of c_noise); after Kendall et al. 2018, arXiv 1705.07115.
    """
    chex.assert_equal_shape([loss, log_variance])
    log_variance = log_variance.astype(loss.dtype)
    return loss * jnp.exp(-log_variance) + log_variance


def _importance(objective: Objective, t: Array) -> Array:
    if objective.proposal is None:
        return jnp.ones_like(t)
    check_support(objective)
    wanted = objective.times.density(t, schedule=objective.schedule)
    offered = objective.proposal.density(t, schedule=objective.schedule)
    used = wanted > 0
    return jnp.where(used, wanted / jnp.where(used, offered, 1), 0)
