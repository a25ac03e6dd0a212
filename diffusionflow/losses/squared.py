"""Unweighted squared-error losses, under the names of their sources."""

import jax.numpy as jnp
import numpy as np
from jax import Array

from diffusionflow import predictions
from diffusionflow._dataclass import check_instance, is_traced
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
    mask: Array | None = None,
) -> Array:
    """Computes MSE of a prediction type p: the event mean of `||p_hat(z_t, t) - p||^2`.

    Args:
      predict_fn: `(z, t) -> prediction` of `kind`.
      x: data, `[*batch, *event]`.
      t: times in [0, 1], `[*batch]`.
      eps: noise like `x`.
      kind: prediction type p.
      schedule: any schedule.
      mask: bool like `x`, with axes of 1 where it is the same along them: the loss is
        the mean over the values of an event where it is True; None for all.

    Returns:
      `[*batch]`.

    Raises:
      ValueError: `t` does not begin the shape of `x`, or leaves [0, 1] (traced times
        give NaN there), an array is of integers, the shapes of `x`, `eps` and the
        prediction disagree, or a mask does not fit `x` or is False for a whole example
        (a traced mask gives NaN there).

    Example:
      >>> from diffusionflow import schedules
      >>> x, eps, t = jnp.ones((3, 2)), jnp.zeros((3, 2)), jnp.full((3,), 0.5)
      >>> net = lambda z, t: 2 * z  # z = x / 2
      >>> print(kind_loss(net, x, t, eps, kind="x", schedule=schedules.FlowMatching()))
      [0. 0. 0.]
    """
    check_instance("schedule", schedule, "schedules.FlowMatching()")
    x, t = as_arrays(x, t, eps)
    mask = as_mask(mask, x, t.ndim)
    kind = predictions.as_kind(kind)
    return squared_error(predict_fn, x, t, eps, kind, schedule, mask)


def cfm_loss(
    predict_fn: PredictFn,
    x: Array,
    t: Array,
    eps: Array,
    *,
    schedule: Schedule,
    mask: Array | None = None,
) -> Array:
    """Computes the conditional flow matching loss (CFM).

    `||w_hat(z_t, t) - (alpha' x + sigma' eps)||^2`, for any Gaussian path. On
    `FlowMatching(sigma_min)`, the path of conditional optimal transport, the target is
    `(1 - sigma_min) eps - x`.

    Args:
      predict_fn: `(z, t) -> prediction` of kind "dz_dt".
      x: data, `[*batch, *event]`.
      t: times in [0, 1], `[*batch]`.
      eps: noise like `x`.
      schedule: any schedule.
      mask: of the values that count, as in `kind_loss`.

    Returns:
      `[*batch]`; errors are raised as by `kind_loss`.

    Source: Lipman et al. 2022, arXiv 2210.02747, eq. 9 and 14, time reversed.
    """
    return kind_loss(predict_fn, x, t, eps, kind="dz_dt", schedule=schedule, mask=mask)


def fm_loss(
    predict_fn: PredictFn,
    field_fn: PredictFn | DenoiseFn,
    x: Array,
    t: Array,
    eps: Array,
    *,
    schedule: Schedule,
    mask: Array | None = None,
) -> Array:
    """Computes the flow matching loss against the marginal field.

    `||w_hat(z_t, t) - w(z_t, t)||^2`, where `w(z, t) = E[alpha' x + sigma' eps | z]` is
    known for few data only (`analytic`). Its mean is that of `cfm_loss` less the
    variance of the conditional field given z, which no network can change: gradients
    agree, values do not.

    Args:
      predict_fn: `(z, t) -> prediction` of kind "dz_dt".
      field_fn: the exact `(z, t) -> w`, or the exact `(z, t) -> Denoised`.
      x: data, `[*batch, *event]`.
      t: times, `[*batch]`.
      eps: noise like `x`; the fields are compared at z_t.
      schedule: any schedule.
      mask: of the values that count, as in `kind_loss`.

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
    return mean_square(predict_fn(z, t), field, t.ndim, as_mask(mask, x, t.ndim))


def ddpm_loss(
    predict_fn: PredictFn,
    x: Array,
    t: Array,
    eps: Array,
    *,
    schedule: Schedule,
    mask: Array | None = None,
) -> Array:
    """Computes DDPM's L_simple, the eps-MSE: `||eps_hat(z_t, t) - eps||^2`.

    Args:
      predict_fn: `(z, t) -> prediction` of kind "eps".
      x: data, `[*batch, *event]`.
      t: times in [0, 1], `[*batch]`.
      eps: noise like `x`.
      schedule: any schedule.
      mask: of the values that count, as in `kind_loss`.

    Returns:
      `[*batch]`; errors are raised as by `kind_loss`.

    Source: Ho et al. 2020, arXiv 2006.11239, eq. 14.
    """
    return kind_loss(predict_fn, x, t, eps, kind="eps", schedule=schedule, mask=mask)


def dsm_loss(
    predict_fn: PredictFn,
    x: Array,
    t: Array,
    eps: Array,
    *,
    schedule: Schedule,
    mask: Array | None = None,
) -> Array:
    """Computes the denoising score matching loss, unweighted.

    `||s_hat(z_t, t) + eps / sigma_t||^2`.

    Its mean over uniform t is infinite where sigma_t reaches 0: weigh it, or keep t
    away from 0.

    Args:
      predict_fn: `(z, t) -> prediction` of kind "score".
      x: data, `[*batch, *event]`.
      t: times in [0, 1], `[*batch]`.
      eps: noise like `x`.
      schedule: any schedule.
      mask: of the values that count, as in `kind_loss`.

    Returns:
      `[*batch]`; errors are raised as by `kind_loss`.

    Source: Vincent 2011, Neural Computation 23(7); Song et al. 2021, arXiv 2011.13456,
    eq. 7 with weight 1.
    """
    return kind_loss(predict_fn, x, t, eps, kind="score", schedule=schedule, mask=mask)


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


def as_mask(mask: Array | None, x: Array, batch_ndim: int) -> Array | None:
    """Checks a mask: of bools, of the rank of `x`, its axes those of `x` or 1.

    Raises:
      ValueError: it is another array, or False for a whole example and not traced.
    """
    if mask is None:
        return None
    fits = jnp.ndim(mask) == x.ndim and all(
        size in (1, whole) for size, whole in zip(jnp.shape(mask), x.shape, strict=True)
    )
    dtype = getattr(mask, "dtype", None)
    if not fits or dtype != np.bool_:
        raise ValueError(
            f"mask of shape {jnp.shape(mask)} and type {dtype}: must be an array of "
            f"bool, of the shape {x.shape} of x, or 1 along an axis"
        )
    axes = tuple(range(batch_ndim, x.ndim))
    if not is_traced(mask) and not np.asarray(mask).any(axes).all():
        raise ValueError(
            "mask is False for a whole example, which has no mean then: leave it out"
        )
    return jnp.asarray(mask)


def mean_square(
    prediction: Array, target: Array, batch_ndim: int, mask: Array | None
) -> Array:
    """Averages `(prediction - target)^2` over all axes but the first `batch_ndim`.

    Of the values where `mask` is True, if there is one.
    """
    prediction = predictions.as_prediction(prediction, target)
    error = (prediction.astype(target.dtype) - target) ** 2
    return jnp.mean(error, axis=tuple(range(batch_ndim, target.ndim)), where=mask)


def squared_error(
    predict_fn: PredictFn,
    x: Array,
    t: Array,
    eps: Array,
    kind: AnyKind,
    schedule: Schedule,
    mask: Array | None,
) -> Array:
    """Computes `kind_loss` of arrays that `as_arrays` and `as_mask` have checked."""
    prediction = predict_fn(noised(x, eps, t, schedule), t)
    denoised = Denoised(x, eps.astype(x.dtype))
    target = predictions.from_denoised(denoised, kind=kind, t=t, schedule=schedule)
    return mean_square(prediction, target, t.ndim, mask)
