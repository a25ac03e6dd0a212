"""Variational bounds on `-log p(x)`, in nats per example.

    -log p(x) <= E[-log p(x | z_0)]  +  diffusion  +  KL(q(z_1 | x) || p(z_1)),

with z_0 and z_1 at the least and the most noise of the bound. The diffusion term is

- of T steps from `t_i` down to `s_i`, those of the ancestral sampler:
  `sum_i KL_i`, `KL_i = 1/2 (SNR_s - SNR_t) E |x_hat - x|^2`, from `losses.kl_weight`;
- in the limit of T: `1/2 int (-dlogsnr/dt) E |eps_hat - eps|^2 dt`, the mean loss of
  the weighting `ELBO` times half the event's size.

Both are computed from the error of v, which is precise at high and at low log-SNR.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from diffusionflow import grids, losses, predictions, random
from diffusionflow._dataclass import check_bound, check_name, is_traced
from diffusionflow._numeric import at_least_float32, in_float64
from diffusionflow.likelihood import priors
from diffusionflow.likelihood.levels import Levels, gaussian_nats
from diffusionflow.likelihood.summary import standard_error
from diffusionflow.objectives import Objective
from diffusionflow.predictions import DenoiseFn, PredictFn
from diffusionflow.schedules import Schedule
from diffusionflow.times import Stratified, Uniform
from diffusionflow.weightings import ELBO


class Bound(NamedTuple):
    """Terms of a bound on `-log p(x)`, nats per example, `[*batch]` each.

    Fields:
      recon: `E[-log p(x | z_0)]`: of a density for continuous data (then it may be
        negative), of a probability for levels.
      diffusion: what the network decides.
      prior: `KL(q(z_1 | x) || p(z_1))`.
      total: their sum.
      stderr: standard error of `total` across the draws; NaN for one draw.
    """

    recon: Array
    diffusion: Array
    prior: Array
    total: Array
    stderr: Array


def discrete_bound(
    key: Array | None,
    denoise_fn: DenoiseFn,
    x: Array,
    *,
    times: ArrayLike,
    schedule: Schedule,
    levels: Levels | None = None,
    num_times: int | None = None,
    num_draws: int = 1,
    prior: str = "unit",
    noise: Any = None,
    batch_ndim: int = 1,
) -> Bound:
    """The bound of T steps, all of them or some at random.

    Where `num_times` is given, a draw is `T / num_times` times the sum over that many
    steps, spread evenly within the example: unbiased, and as cheap as one likes.

    Args:
      key: scalar, or typed keys `[*batch]`, one per example. None where `noise` is
        recorded and all steps are taken.
      denoise_fn: `(z, t) -> Denoised`, called on `[*batch, *event]` and `[*batch]`.
      x: data, `[*batch, *event]`.
      times: a grid, `[T + 1]`, falling, such as `grids.uniform(1000)`. Sigma must be
        above 0 at its last time; alpha may be 0 at its first.
      schedule: the one of `denoise_fn`.
      levels: the levels that `x` has, for a bound on their probability; None for one on
        the density of continuous data, decoded by `N(z_0 / alpha_0, e^-logsnr_0)`.
      num_times: steps in each draw, at random; None for all T.
      num_draws: independent draws, across which the standard error is taken.
      prior: of the first time: "unit", N(0, I), or "standard", N(0, sigma^2 I).
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
    grids.check_grid(times)
    if hasattr(denoise_fn, "check"):
        denoise_fn.check(times[:-1])
    steps = len(times) - 1
    draw = _Draw(key, x, batch_ndim, num_draws, num_times, noise, levels, prior)
    table = in_float64(_step_table, schedule, times)
    t, weight = (jnp.asarray(column, draw.x.dtype) for column in table)
    if num_times is None:
        number = jnp.arange(steps).reshape((1, steps) + (1,) * batch_ndim)
        number = jnp.broadcast_to(number, (num_draws, steps, *draw.batch))
    else:
        share = draw.uniform(Uniform(), schedule)
        # share is below 1, but the product may round up
        number = jnp.minimum((share * steps).astype(jnp.int32), steps - 1)

    v_fn = _v_fn(denoise_fn, schedule)

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
    levels: Levels | None = None,
    num_times: int = 1,
    num_draws: int = 1,
    prior: str = "unit",
    noise: Any = None,
    t_min: float = 0.0,
    t_max: float = 1.0,
    batch_ndim: int = 1,
) -> Bound:
    """The bound in continuous time, at random times.

    Args:
      key: scalar, or typed keys `[*batch]`, one per example.
      denoise_fn: `(z, t) -> Denoised`, called on `[*batch, *event]` and `[*batch]`.
      x: data, `[*batch, *event]`.
      schedule: the one of `denoise_fn`; its log-SNR must be finite at both ends.
      density: of the times, importance-weighted: `times.UniformLogSNR(...)` integrates
        over the log-SNR. Uniform on [t_min, t_max] if None.
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
    _check_end("t_min", t_min, schedule)
    _check_end("t_max", t_max, schedule)
    draw = _Draw(key, x, batch_ndim, num_draws, num_times, noise, levels, prior)
    window = Uniform(t_min, t_max)
    objective = Objective(schedule, "v", ELBO(), window, density)
    v_fn = _v_fn(denoise_fn, schedule)

    def term(t: Array, eps: Array) -> Array:
        loss = losses.objective_loss(
            None, v_fn, draw.x, objective=objective, t=t, eps=eps
        )
        return (t_max - t_min) * draw.dim / 2 * loss

    t = draw.uniform(window if density is None else density, schedule)
    return draw.bound(term, t, schedule, (t_min, t_max))


class _Draw:
    """Times and noise of the draws of a bound, and the sums over them."""

    def __init__(
        self, key, x, batch_ndim, num_draws, num_times, noise, levels, prior
    ) -> None:
        check_bound("num_draws", num_draws, lambda n: n >= 1, "at least 1")
        if num_times is not None:
            check_bound("num_times", num_times, lambda n: n >= 1, "at least 1")
        if key is None and noise is None:
            raise ValueError("key=None must be a key: a bound draws noise")
        check_name("prior", prior, priors.PRIORS)
        self.levels, self.prior = levels, prior
        self.x, self.batch_ndim = at_least_float32(x), batch_ndim
        self.batch = self.x.shape[:batch_ndim]
        self.dim = math.prod(self.x.shape[batch_ndim:])
        self.num_draws, self.num_times = num_draws, num_times
        if levels is not None:
            levels.numbers(self.x)  # refused here, where the values are known
        self.source = random.Independent() if noise is None else noise
        keys = (None,) * 3 if key is None else random.split(key, 3)
        self.time_key, self.noise_key, self.recon_key = keys

    def uniform(self, density: Any, schedule: Schedule) -> Array:
        """Times `[num_draws, num_times, *batch]`, stratified within each example."""
        if self.time_key is None:
            raise ValueError("key=None must be a key: times are drawn")

        def times(key: Array) -> Array:
            return Stratified(density).sample(key, (self.num_times,), schedule)

        keys = [random.fold_in(self.time_key, i) for i in range(self.num_draws)]
        keys = jnp.stack(keys)
        if not self.time_key.ndim:
            keys = jax.vmap(lambda key: jax.random.split(key, self.batch))(keys)
        t = jax.vmap(times)(keys.reshape(-1)).reshape(*keys.shape, self.num_times)
        return jnp.moveaxis(t, -1, 1).astype(self.x.dtype)

    def bound(self, term_fn, places, schedule, ends) -> Bound:
        """The mean of `term_fn(place, eps)` over the times of each draw, and the rest.

        Args:
          term_fn: an unbiased estimate of the diffusion term, `[*batch]`.
          places: what it is called with, `[num_draws, num_times, *batch]`.
          schedule: any.
          ends: times of the least and of the most noise.
        """

        def one(numbered: tuple[Array, Array]) -> Array:
            number, place = numbered
            eps = self.source.draw(self.noise_key, number, 1, self.x)[0]
            return term_fn(place, eps)

        flat = places.reshape(-1, *self.batch)
        terms = jax.lax.map(one, (jnp.arange(flat.shape[0]), flat))
        terms = terms.reshape(places.shape[:2] + self.batch)
        diffusion = jnp.mean(terms, axis=1)
        recon = self._recon(schedule, ends[0])
        stderr = standard_error(recon + diffusion)
        recon, diffusion = jnp.mean(recon, axis=0), jnp.mean(diffusion, axis=0)
        kl = priors.divergence(self.prior, self.x, schedule, ends[1], self.batch_ndim)
        return Bound(recon, diffusion, kl, recon + diffusion + kl, stderr)

    def _recon(self, schedule: Schedule, t: ArrayLike) -> Array:
        """`[num_draws, *batch]`."""
        logsnr = in_float64(lambda schedule, t: schedule.logsnr(t), schedule, t)
        if self.levels is None:
            nats = jnp.asarray(in_float64(gaussian_nats, logsnr, self.dim))
            shape = (self.num_draws, *self.batch)
            return jnp.broadcast_to(nats.astype(self.x.dtype), shape)

        def one(number: Array) -> Array:
            eps = self.source.draw(self.recon_key, number, 1, self.x)[0]
            return self.levels.nats(self.x, eps, logsnr, self.batch_ndim)

        return jax.lax.map(one, jnp.arange(self.num_draws))


def _v_fn(denoise_fn: DenoiseFn, schedule: Schedule) -> PredictFn:
    def v_fn(z: Array, t: Array) -> Array:
        denoised = denoise_fn(z, t)
        return predictions.from_denoised(denoised, kind="v", t=t, schedule=schedule)

    return v_fn


def _step_table(schedule: Schedule, times: Array) -> tuple[Array, Array]:
    """The time of each step, and the weight of its squared error of v."""
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
            "and a bound is infinite or undefined; choose a schedule with finite ends, "
            "such as Cosine(logsnr_min=-15., logsnr_max=15.), or a range of times "
            "inside (t_min, t_max, or a grid that ends above 0)"
        )
