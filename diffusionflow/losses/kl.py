"""Terms of the T-step variational bound (ELBO, VLB), in nats per dimension.

    -log p(x) <= KL(q(z_1 | x) || N(0, I)) + sum_i KL_i + E[-log p(x | z_0)],

the sum over the steps from `t` down to `s < t`. The last term, the
reconstruction, is a model of the data given the least noise and is not here.
"""

import chex
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from diffusionflow import _xp as xp
from diffusionflow import predictions
from diffusionflow._dataclass import check_batch_ndim, check_name, is_traced
from diffusionflow._numeric import floating, in_float64
from diffusionflow.losses.squared import as_arrays, squared_error
from diffusionflow.predictions import AnyKind, PredictFn
from diffusionflow.schedules import Schedule, as_schedule

KL_VARIANCES = ("posterior", "forward")


def kl_terms(
    predict_fn: PredictFn,
    x: Array,
    t: Array,
    s: Array,
    eps: Array,
    *,
    kind: AnyKind,
    schedule: Schedule,
    variance: str = "posterior",
) -> Array:
    """Computes the KL term of a step, t to s, `KL(q(z_s | z_t, x) || p(z_s | z_t))`.

    Both are Gaussian; p has x_hat in the place of x. With the variance of q, the
    "posterior" one, it is a weighted x-MSE, or eps-MSE, and nothing else:

        1/2 (SNR_s - SNR_t) (x_hat - x)^2
      = 1/2 expm1(logsnr_s - logsnr_t) (eps_hat - eps)^2,

    computed as the former: it is finite where the step starts at alpha_t = 0.

    With the "forward" one, `sigma_t^2 c`, `c = -expm1(logsnr_t - logsnr_s)` (beta_t of
    a variance preserving chain), the error is multiplied by `sigma_s^2 / sigma_t^2`,
    and the two variances add `1/2 (r - 1 - log r)`, `r = sigma_s^2 / sigma_t^2`.

    Args:
      predict_fn: `(z, t) -> prediction` of `kind`.
      x: data, `[*batch, *event]`.
      t: times, `[*batch]`.
      s: less noisy times, `[*batch]`, `s < t`.
      eps: noise like `x`; where p and q are compared is `z_t`.
      kind: of the prediction.
      schedule: any schedule.
      variance: of p: "posterior" or "forward".

    Returns:
      `[*batch]`, nats per dimension (means over the event): one step of the variational
      bound on `-log p(x) / d`. Infinite where sigma_s = 0, and where alpha_t = 0 and
      `kind` does not determine x there (eps, score).

    Raises:
      ValueError: `variance` is unknown, times that do not fit `x`, or an s that is not
        below its t. Traced values cannot be checked and pass.
      AssertionError: shapes of `t` and `s` disagree.

    Source: Ho et al. 2020, arXiv 2006.11239, eq. 5 and 8; in log-SNR, Kingma et al.
    2021, arXiv 2107.00630. Ho et al. write no `1/2 (r - 1 - log r)`, a constant.
    """
    check_name("variance", variance, KL_VARIANCES)
    as_schedule(schedule)
    (x, t), (_, s) = as_arrays(x, t, eps), as_arrays(x, s)
    chex.assert_equal_shape([t, s])
    _check_order(t, s)
    kind = predictions.as_kind(kind)
    error = squared_error(predict_fn, x, t, eps, kind, schedule, None)
    error = predictions.error_ratio("x", kind, t, schedule=schedule) * error
    weight, extra = (
        xp.asarray(part, x.dtype)
        for part in in_float64(_FACTORS[variance], schedule, t, s)
    )
    return weight * error + extra


def prior_kl(
    x: Array, *, schedule: Schedule, t: ArrayLike = 1.0, batch_ndim: int = 1
) -> Array:
    """Computes the prior KL, `KL(q(z_t | x) || N(0, I))`.

    `1/2 (alpha^2 x^2 + sigma^2 - 1 - log sigma^2)`. It depends on no network and
    vanishes where alpha = 0 and sigma = 1. The prior is N(0, I) whatever the schedule:
    where sigma is far from 1, such as on `VE`, the divergence is large, and a bound
    that samples from N(0, sigma^2 I) needs another term, `1/2 alpha^2 x^2 / sigma^2`.

    Args:
      x: data, `[*batch, *event]`.
      schedule: any schedule.
      t: where the bound begins, scalar.
      batch_ndim: leading axes of `x` that are the batch.

    Returns:
      `[*batch]`, nats per dimension.

    Source: Kingma et al. 2021, arXiv 2107.00630, the prior loss.
    """
    as_schedule(schedule)
    x = predictions.as_data(x, "x")
    check_batch_ndim(batch_ndim, x.ndim)
    signal, extra = (
        xp.asarray(part, x.dtype) for part in in_float64(_prior, schedule, t)
    )
    square = jnp.mean(x**2, axis=tuple(range(batch_ndim, x.ndim)))
    return signal * square + extra


@xp.quiet
def kl_weight(t: ArrayLike, s: ArrayLike, *, schedule: Schedule) -> Array:
    """Computes the weight `1/2 (SNR_s - SNR_t)` of the x-MSE in `kl_terms`.

    Args:
      t: times, any shape.
      s: less noisy times, like `t`.
      schedule: any schedule.

    Returns:
      Like `t`; infinite where sigma_s = 0.
    """
    as_schedule(schedule)
    return _posterior(schedule, floating(t), floating(s))[0]


def _check_order(t: Array, s: Array) -> None:
    if is_traced(t, s):
        return
    bad = ~(np.asarray(s) < np.asarray(t))
    if bad.any():
        late, early = np.asarray(t)[bad].ravel()[0], np.asarray(s)[bad].ravel()[0]
        raise ValueError(
            f"a step from t={late} to s={early}: s must be below t, the less noisy time"
        )


def _posterior(schedule: Schedule, t: Array, s: Array) -> tuple[Array, Array]:
    lost = _lost(schedule, t, s)
    snr = (schedule.alpha(s) / schedule.sigma(s)) ** 2
    return snr * lost / 2, xp.zeros_like(lost)


def _forward(schedule: Schedule, t: Array, s: Array) -> tuple[Array, Array]:
    # SNR_s sigma_s^2 / sigma_t^2, finite where sigma_s = 0
    weight = (schedule.alpha(s) / schedule.sigma(t)) ** 2 * _lost(schedule, t, s) / 2
    ratio = (schedule.sigma(s) / schedule.sigma(t)) ** 2
    return weight, (ratio - 1 - xp.log(ratio)) / 2


def _lost(schedule: Schedule, t: Array, s: Array) -> Array:
    """Computes `1 - SNR_t / SNR_s`."""
    loss = schedule.logsnr(t) - schedule.logsnr(s)
    signal = loss > -xp.inf  # exp is flat at -inf, where the slope of loss is infinite
    return xp.where(signal, -xp.expm1(xp.where(signal, loss, 0)), 1)


_FACTORS = {"posterior": _posterior, "forward": _forward}


def _prior(schedule: Schedule, t: ArrayLike) -> tuple[Array, Array]:
    excess = schedule.sigma(t) ** 2 - 1
    return schedule.alpha(t) ** 2 / 2, (excess - xp.log1p(excess)) / 2
