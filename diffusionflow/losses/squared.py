"""Unweighted squared-error losses, under the names of their sources."""

import jax.numpy as jnp
from jax import Array

from diffusionflow import predictions
from diffusionflow._dataclass import check_instance
from diffusionflow.predictions import AnyKind, Denoised, DenoiseFn, PredictFn
from diffusionflow.processes.noising import noised
from diffusionflow.schedules import Schedule


def kind_loss(
    predict_fn: PredictFn,
    x: Array,
    t: Array,
    eps: Array,
    *,
    kind: AnyKind,
    schedule: Schedule,
) -> Array:
    """MSE of a prediction type p, `||p_hat(z_t, t) - p||^2`, mean over the event.

    Args:
      predict_fn: `(z, t) -> prediction` of `kind`.
      x: data, `[*batch, *event]`.
      t: times in [0, 1], `[*batch]`.
      eps: noise like `x`.
      kind: prediction type p.
      schedule: any schedule.

    Returns:
      `[*batch]`.

    Raises:
      ValueError: `t` does not begin the shape of `x`, or leaves [0, 1] (traced times
        give NaN there), an array is of integers, or the shapes of `x`, `eps` and the
        prediction disagree.

    Example:
      >>> from diffusionflow import schedules
      >>> x, eps, t = jnp.ones((3, 2)), jnp.zeros((3, 2)), jnp.full((3,), 0.5)
      >>> net = lambda z, t: 2 * z  # z = x / 2
      >>> print(kind_loss(net, x, t, eps, kind="x", schedule=schedules.FlowMatching()))
      [0. 0. 0.]
    """
    check_instance("schedule", schedule, "schedules.FlowMatching()")
    x, t = as_arrays(x, t, eps)
    return squared_error(predict_fn, x, t, eps, predictions.as_kind(kind), schedule)


def cfm_loss(
    predict_fn: PredictFn, x: Array, t: Array, eps: Array, *, schedule: Schedule
) -> Array:
    """Conditional flow matching: `||w_hat(z_t, t) - (alpha' x + sigma' eps)||^2`.

    For any Gaussian path. On `FlowMatching(sigma_min)`, the path of conditional optimal
    transport, the target is `(1 - sigma_min) eps - x`.

    Args:
      predict_fn: `(z, t) -> prediction` of kind "dz_dt".
      x: data, `[*batch, *event]`.
      t: times in [0, 1], `[*batch]`.
      eps: noise like `x`.
      schedule: any schedule.

    Returns:
      `[*batch]`; errors are raised as by `kind_loss`.

    Source: Lipman et al. 2022, arXiv 2210.02747, eq. 9 and 14, time reversed.
    """
    return kind_loss(predict_fn, x, t, eps, kind="dz_dt", schedule=schedule)


def fm_loss(
    predict_fn: PredictFn,
    field_fn: PredictFn | DenoiseFn,
    x: Array,
    t: Array,
    eps: Array,
    *,
    schedule: Schedule,
) -> Array:
    """Flow matching against the marginal field: `||w_hat(z_t, t) - w(z_t, t)||^2`.

    `w(z, t) = E[alpha' x + sigma' eps | z]`, which is known for few data only
    (`analytic`). Its mean is that of `cfm_loss` less the variance of the conditional
    field given z, which no network can change: gradients agree, values do not.

    Args:
      predict_fn: `(z, t) -> prediction` of kind "dz_dt".
      field_fn: the exact `(z, t) -> w`, or the exact `(z, t) -> Denoised`.
      x: data, `[*batch, *event]`.
      t: times, `[*batch]`.
      eps: noise like `x`; the fields are compared at z_t.
      schedule: any schedule.

    Returns:
      `[*batch]`, mean over the event.

    Raises:
      ValueError: as `kind_loss`.

    Source: Lipman et al. 2022, arXiv 2210.02747, the flow matching objective, time
    reversed.
    """
    x, t = as_arrays(x, t, eps)
    z = noised(x, eps, t, schedule)
    field = field_fn(z, t)
    if isinstance(field, Denoised):
        field = predictions.from_denoised(field, kind="dz_dt", t=t, schedule=schedule)
    return mean_square(predict_fn(z, t), field, t.ndim)


def ddpm_loss(
    predict_fn: PredictFn, x: Array, t: Array, eps: Array, *, schedule: Schedule
) -> Array:
    """DDPM's L_simple, the eps-MSE: `||eps_hat(z_t, t) - eps||^2`.

    Args:
      predict_fn: `(z, t) -> prediction` of kind "eps".
      x: data, `[*batch, *event]`.
      t: times in [0, 1], `[*batch]`.
      eps: noise like `x`.
      schedule: any schedule.

    Returns:
      `[*batch]`; errors are raised as by `kind_loss`.

    Source: Ho et al. 2020, arXiv 2006.11239, eq. 14.
    """
    return kind_loss(predict_fn, x, t, eps, kind="eps", schedule=schedule)


def dsm_loss(
    predict_fn: PredictFn, x: Array, t: Array, eps: Array, *, schedule: Schedule
) -> Array:
    """Denoising score matching: `||s_hat(z_t, t) + eps / sigma_t||^2`, unweighted.

    Its mean over uniform t is infinite where sigma_t reaches 0: weigh it, or keep t
    away from 0.

    Args:
      predict_fn: `(z, t) -> prediction` of kind "score".
      x: data, `[*batch, *event]`.
      t: times in [0, 1], `[*batch]`.
      eps: noise like `x`.
      schedule: any schedule.

    Returns:
      `[*batch]`; errors are raised as by `kind_loss`.

    Source: Vincent 2011, Neural Computation 23(7); Song et al. 2021, arXiv 2011.13456,
    eq. 7 with weight 1.
    """
    return kind_loss(predict_fn, x, t, eps, kind="score", schedule=schedule)


def as_arrays(x: Array, t: Array, eps: Array | None = None) -> tuple[Array, Array]:
    """Checks data and times and casts them to one floating dtype, float32 or wider.

    Raises:
      ValueError: `x` or `t` is of integers, a time that is not traced lies outside
        [0, 1], or `eps` has another shape than `x`.
    """
    x, t = predictions.as_input(x, t, "x")
    if eps is not None:
        predictions.check_same_shape("eps", eps, "x", x)
    return x, t.astype(x.dtype)


def mean_square(prediction: Array, target: Array, batch_ndim: int) -> Array:
    """Mean of `(prediction - target)^2` over all axes but the first `batch_ndim`."""
    prediction = predictions.as_prediction(prediction, target)
    error = (prediction.astype(target.dtype) - target) ** 2
    return jnp.mean(error, axis=tuple(range(batch_ndim, target.ndim)))


def squared_error(
    predict_fn: PredictFn,
    x: Array,
    t: Array,
    eps: Array,
    kind: AnyKind,
    schedule: Schedule,
) -> Array:
    """`kind_loss` of arrays that `as_arrays` has checked."""
    prediction = predict_fn(noised(x, eps, t, schedule), t)
    denoised = Denoised(x, eps.astype(x.dtype))
    target = predictions.from_denoised(denoised, kind=kind, t=t, schedule=schedule)
    return mean_square(prediction, target, t.ndim)
