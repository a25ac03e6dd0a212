"""Variational bounds (negative ELBO, VLB) on `-log p(x)`, in nats per example.

    -log p(x) <= E[-log p(x | z_0)]  +  diffusion  +  KL(q(z_1 | x) || p(z_1)),

with z_0 and z_1 at the least and the most noise of the bound. The diffusion term is

- of T steps from `t_i` down to `s_i`, those of the ancestral sampler:
  `sum_i KL_i`, `KL_i = 1/2 (SNR_s - SNR_t) E |x_hat - x|^2`, from `losses.kl_weight`;
- in the limit of T: `1/2 int (-dlogsnr/dt) E |eps_hat - eps|^2 dt`, the mean loss of
  the weighting `ELBO` times half the event's size.

Both are computed from the v-MSE, which is precise at high and at low log-SNR.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from diffusionflow import grids, losses, predictions
from diffusionflow._dataclass import is_traced
from diffusionflow._numeric import in_float64
from diffusionflow.likelihood.estimator import Bound, BoundEstimator
from diffusionflow.likelihood.quantized import QuantizedLevels
from diffusionflow.objectives import Objective
from diffusionflow.predictions import DenoiseFn, PredictFn, as_denoiser
from diffusionflow.samplers.steps import as_grid, check_times
from diffusionflow.schedules import Schedule, as_schedule
from diffusionflow.times import Uniform
from diffusionflow.weightings import ELBO


def discrete_bound(
    key: Array | None,
    denoise_fn: DenoiseFn,
    x: Array,
    *,
    times: ArrayLike,
    schedule: Schedule,
    levels: QuantizedLevels | None = None,
    num_times: int | None = None,
    num_draws: int = 1,
    prior: str = "standard",
    noise: Any = None,
    batch_ndim: int = 1,
) -> Bound:
    """Estimates the variational bound (VLB) of T steps, all or some at random.

    Where `num_times` is given, a draw is `T / num_times` times the sum over that many
    steps, spread evenly within the example: unbiased, and as cheap as one likes.

    Args:
      key: scalar, or typed keys `[*batch]`, one per example. None where `noise` is
        recorded and all steps are taken.
      denoise_fn: `(z, t) -> Denoised`, called on `[*batch, *event]` and `[*batch]`.
      x: data, `[*batch, *event]`.
      times: timestep schedule, `[T + 1]`, falling, such as `grids.uniform(1000)`.
        Sigma must be above 0 at its last time; alpha may be 0 at its first.
      schedule: the one of `denoise_fn`.
      levels: the levels that `x` has, for a bound on their probability; None for one on
        the density of continuous data, decoded by `N(z_0 / alpha_0, e^-logsnr_0)`.
      num_times: steps in each draw, at random; None for all T.
      num_draws: independent draws, across which the standard error is taken.
      prior: of the first time: "standard", N(0, sigma^2 I), from which samplers start,
        or "unit", N(0, I), of the schedule's own scale.
      noise: `random.Independent()` if None, or another source.
      batch_ndim: leading axes of `x` that are the batch.

    Returns:
      `Bound`.

    Raises:
      ValueError: `times` is no grid or ends at sigma = 0; an unknown prior; counts
        below 1; values that are no levels; or a network that is singular on the grid.

    Source: Ho et al. 2020, arXiv 2006.11239; in log-SNR, with the reconstruction,
    Kingma et al. 2021, arXiv 2107.00630.
    """
    times = as_grid(grids.check_grid(times))
    steps = len(times) - 1
    draw = BoundEstimator(
        key, x, batch_ndim, num_draws, num_times, noise, levels, prior
    )
    denoiser = as_denoiser(denoise_fn, like=draw.x, schedule=as_schedule(schedule))
    check_times(denoiser, times[:-1], draw.x)
    table = in_float64(_step_table, schedule, times)
    t, weight = (jnp.asarray(column, draw.x.dtype) for column in table)
    if num_times is None:
        number = jnp.arange(steps).reshape((1, steps) + (1,) * batch_ndim)
        number = jnp.broadcast_to(number, (num_draws, steps, *draw.batch))
    else:
        fraction = draw.uniform(Uniform(), schedule)
        # fraction is below 1, but the product may round up
        number = jnp.minimum((fraction * steps).astype(jnp.int32), steps - 1)

    v_fn = _v_fn(denoiser, schedule)

    def term(number: Array, eps: Array) -> Array:
        error = losses.kind_loss(
            v_fn, draw.x, t[number], eps, kind="v", schedule=schedule
        )
        return steps * draw.dim * weight[number] * error

    ends = times[-1], times[0]
    return draw.bound(term, number, schedule, ends)


def continuous_bound(
    key: Array | None,
    denoise_fn: DenoiseFn,
    x: Array,
    *,
    schedule: Schedule,
    density: Any = None,
    levels: QuantizedLevels | None = None,
    num_times: int = 1,
    num_draws: int = 1,
    prior: str = "standard",
    noise: Any = None,
    t_min: float = 0.0,
    t_max: float = 1.0,
    batch_ndim: int = 1,
) -> Bound:
    """Estimates the variational bound (VLB) in continuous time, at random times.

    Args:
      key: scalar, or typed keys `[*batch]`, one per example.
      denoise_fn: `(z, t) -> Denoised`, called on `[*batch, *event]` and `[*batch]`.
      x: data, `[*batch, *event]`.
      schedule: the one of `denoise_fn`; its log-SNR must be finite at both ends.
      density: time (noise-level) distribution, importance-weighted:
        `times.UniformLogSNR(...)` integrates over the log-SNR. Uniform on
        [t_min, t_max] if None.
      levels: as in `discrete_bound`.
      num_times: times in each draw, spread evenly within the example.
      num_draws: independent draws, across which the standard error is taken.
      prior: as in `discrete_bound`.
      noise: as in `discrete_bound`.
      t_min: where the bound ends, 0 where the schedule is finite there.
      t_max: where the bound begins.
      batch_ndim: leading axes of `x` that are the batch.

    Returns:
      `Bound`.

    Raises:
      ValueError: a log-SNR that is infinite at an end; a density that leaves out some
        of the times; an unknown prior; counts below 1; or values that are no levels.

    Source: Kingma et al. 2021, arXiv 2107.00630, the continuous-time bound and its
    low-discrepancy times, there spread over the batch.
    """
    _check_end("t_min", t_min, as_schedule(schedule))
    _check_end("t_max", t_max, schedule)
    draw = BoundEstimator(
        key, x, batch_ndim, num_draws, num_times, noise, levels, prior
    )
    window = Uniform(t_min, t_max)
    objective = Objective(schedule, "v", ELBO(), window, density)
    denoiser = as_denoiser(denoise_fn, like=draw.x, schedule=schedule)
    v_fn = _v_fn(denoiser, schedule)

    def term(t: Array, eps: Array) -> Array:
        loss = losses.objective_loss(
            None, v_fn, draw.x, objective=objective, t=t, eps=eps
        )
        return (t_max - t_min) * draw.dim / 2 * loss

    t = draw.uniform(window if density is None else density, schedule)
    return draw.bound(term, t, schedule, (t_min, t_max))


def _v_fn(denoise_fn: DenoiseFn, schedule: Schedule) -> PredictFn:
    def v_fn(z: Array, t: Array) -> Array:
        denoised = denoise_fn(z, t)
        return predictions.from_denoised(denoised, kind="v", t=t, schedule=schedule)

    return v_fn


def _step_table(schedule: Schedule, times: Array) -> tuple[Array, Array]:
    """Returns the time of each step, and the weight of its v-MSE."""
    t, s = times[:-1], times[1:]
    _check_end("times[-1]", times[-1], schedule, both=False)
    ratio = predictions.error_ratio("x", "v", t, schedule=schedule)
    return t, losses.kl_weight(t, s, schedule=schedule) * ratio


def _check_end(name: str, t: Any, schedule: Schedule, both: bool = True) -> None:
    """Refuses an infinite log-SNR; only a high one where not `both`."""
    logsnr = in_float64(lambda schedule, t: schedule.logsnr(t), schedule, t)
    if is_traced(logsnr):
        return
    if np.isinf(logsnr) if both else logsnr == np.inf:
        raise ValueError(
            f"{name}={float(t)}: the log-SNR of {schedule} is {float(logsnr)} there, "
            "and the variational bound is infinite or undefined; choose a schedule "
            "with finite ends, such as Cosine(logsnr_min=-15., logsnr_max=15.), or a "
            "range of times inside (t_min, t_max, or a grid that ends above 0)"
        )
