"""Log-likelihoods by the probability-flow ODE, from data or from latents.

With `y = z / l`, `l = sqrt(alpha^2 + sigma^2)` and the angle of `samplers.angular`,

    log p_0(z_0) = log p_1(z_1) + d log(l_1 / l_0) + int_0^1 div (dy / dangle) dangle,

integrated from the data to the noise. It is the density of the ODE with the network's
field and the prior that is put at its noisy end, not a variational bound, and exact up
to the solver and the probes.
"""

import math
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from diffusionflow._dataclass import (
    check_batch_ndim,
    check_instance,
    check_name,
    is_traced,
    register,
    static,
)
from diffusionflow._numeric import in_float64
from diffusionflow.likelihood import priors
from diffusionflow.likelihood.priors import LogPrior
from diffusionflow.likelihood.solvers import Fixed
from diffusionflow.likelihood.traces import Exact
from diffusionflow.predictions import DenoiseFn, Denoiser, as_data, as_denoiser
from diffusionflow.samplers import angular
from diffusionflow.samplers.nfe import times_calls
from diffusionflow.samplers.steps import check_times
from diffusionflow.schedules import Schedule, as_schedule


@register
class Flow:
    """Solution of the probability-flow ODE: both ends, and the log-likelihood.

    Args:
      x: z at `t_min`, `[*batch, *event]`: the data where sigma is 0 and alpha 1 there,
        else data with that little noise, whose density is what `log_p` is of. Infinite
        where it is a result and not `done`.
      z: at `t_max`, `[*batch, *event]`, likewise.
      log_p: log density of `x`, nats per example, `[*batch]`; NaN where not `done`.
      log_prior: the prior's log density of `z`, `[*batch]`.
      log_det: what the flow adds: the integral of the divergence of dz/dt from `t_min`
        to `t_max`, `[*batch]`.
      stderr: standard error of `log_p` across the probes, `[*batch]`: 0 for the exact
        trace, NaN for a single probe, from which it cannot be estimated.
      done: whether the solver arrived within its tolerances at finite values,
        `[*batch]`.
      nfe: NFE (number of function evaluations: network calls), a number or `[*batch]`;
        the derivatives of each come on top (one product per coordinate or probe).
      prior_alpha: alpha at `t_max`. Where it is not 0, the named priors leave out the
        data term of z, and `log_p` is the density of a model that is
        started from that prior.
      prior: "standard", N(0, sigma^2 I) at `t_max`; "unit", N(0, I); or "given".
    """

    x: Array
    z: Array
    log_p: Array
    log_prior: Array
    log_det: Array
    stderr: Array
    done: Array
    nfe: int | Array | None
    prior_alpha: ArrayLike
    prior: str = static()


def encode(
    key: Array | None,
    denoise_fn: DenoiseFn,
    x: Array,
    *,
    schedule: Schedule,
    trace: Any = None,
    solver: Any = None,
    prior: str | LogPrior = "standard",
    t_min: float | Array = 0.0,
    t_max: float | Array = 1.0,
    batch_ndim: int = 1,
) -> Flow:
    """Encodes data to latents by the ODE, with the log-likelihood of the data.

    Differentiable in `x` and in what `denoise_fn` closes over. For the latent alone,
    `samplers.solve` and `samplers.invert` cost less.

    Args:
      key: for the probes; scalar, or typed keys `[*batch]`. None for the exact trace.
      denoise_fn: `(z, t) -> Denoised` with scalar t; see the solvers for the shape of
        z. No example's result may depend on another example.
      x: z at `t_min`, `[*batch, *event]`.
      schedule: the one of `denoise_fn`.
      trace: `Exact()` if None, or `Hutchinson(...)`.
      solver: `Fixed()` if None, or `Adaptive(...)`.
      prior: law of z at `t_max`: "standard", "unit" (see `Flow`), or a function from
        z to its log density, `[*batch]`.
      t_min: time of `x`, scalar.
      t_max: time of the latent, scalar, above `t_min`.
      batch_ndim: leading axes of `x` that are the batch.

    Returns:
      `Flow`.

    Raises:
      ValueError: the prior is unknown, times in the wrong order, a network that is
        singular at a concrete time (eps at alpha = 0, x at sigma = 0: give a `t_max` or
        `t_min` short of it), or no key for probes.
      ImportError: diffrax is missing for `Adaptive`.

    Source: Chen et al. 2018, arXiv 1806.07366; Song et al. 2021, arXiv 2011.13456, the
    probability-flow ODE and its likelihood.

    Example:
      >>> import jax.numpy as jnp
      >>> from diffusionflow import analytic, schedules
      >>> flow, law = schedules.FlowMatching(), analytic.gaussian(jnp.zeros(1), 0.25)
      >>> x = jnp.array([[0.3]])
      >>> result = encode(None, law.denoise_fn(schedule=flow), x, schedule=flow)
      >>> exact = law.log_density(x, 1.0, 0.0)
      >>> print(jnp.abs(result.log_p - exact) < 1e-3)
      [ True]
    """
    settings = _Settings(schedule, trace, solver, prior, t_min, t_max, batch_ndim)
    check_batch_ndim(batch_ndim, np.ndim(x))
    return _flow(key, denoise_fn, x, settings, forward=True)


def decode(
    key: Array | None,
    denoise_fn: DenoiseFn,
    z: Array,
    *,
    schedule: Schedule,
    trace: Any = None,
    solver: Any = None,
    prior: str | LogPrior = "standard",
    t_min: float | Array = 0.0,
    t_max: float | Array = 1.0,
    batch_ndim: int = 1,
) -> Flow:
    """Decodes latents to data by the ODE, with the log-likelihood along the way.

    Args:
      key: as in `encode`, like all that follow but for z.
      denoise_fn: `(z, t) -> Denoised`.
      z: at `t_max`, such as `samplers.prior(...)`, `[*batch, *event]`.
      schedule: that of `denoise_fn`.
      trace: estimator of divergences.
      solver: of the ODE.
      prior: law of z at `t_max`.
      t_min: time of the data.
      t_max: time of the latent.
      batch_ndim: number of batch axes, static.

    Returns:
      `Flow`: `x` are samples, `log_p` their log densities, those of `encode`. The
      samples are not finalized (`Denoiser.finalize`): that would change their density.

    Raises:
      ValueError: as `encode`.
    """
    settings = _Settings(schedule, trace, solver, prior, t_min, t_max, batch_ndim)
    check_batch_ndim(batch_ndim, np.ndim(z))
    return _flow(key, denoise_fn, z, settings, forward=False)


class _Settings(NamedTuple):
    """Arguments of `encode` and `decode`."""

    schedule: Schedule
    trace: Any
    solver: Any
    prior: str | LogPrior
    t_min: float | Array
    t_max: float | Array
    batch_ndim: int


def _flow(
    key: Array | None,
    denoise_fn: DenoiseFn,
    z: Array,
    settings: _Settings,
    *,
    forward: bool,
) -> Flow:
    schedule, trace, solver, prior, t_min, t_max, batch = settings
    trace = Exact() if trace is None else trace
    solver = Fixed() if solver is None else solver
    check_instance("trace", trace, "likelihood.Exact()")
    check_instance("solver", solver, "likelihood.Fixed()")
    z = as_data(z, "x" if forward else "z")
    _check_order(t_min, t_max)
    if not callable(prior):
        check_name("prior", prior, priors.PRIORS)
    ends = (t_min, t_max) if forward else (t_max, t_min)
    denoiser = as_denoiser(
        denoise_fn, like=solver.example(z, batch), schedule=as_schedule(schedule)
    )
    check_times(denoiser, solver.times(*ends, schedule=schedule), z)
    settings = settings._replace(trace=trace, solver=solver)
    other, sums, done, evaluations = _moved(key, denoiser, z, settings, *ends)
    x, z, sums = (z, other, sums) if forward else (other, z, -sums)
    log_prior = priors.log_density(prior, z, schedule, t_max, batch)
    log_det = jnp.mean(sums, axis=0)
    return Flow(
        x=x,
        z=z,
        log_p=jnp.where(done, log_prior + log_det, jnp.nan),
        log_prior=log_prior,
        log_det=log_det,
        stderr=trace.stderr(sums),
        done=done,
        nfe=times_calls(denoiser, evaluations),
        prior_alpha=jnp.asarray(
            in_float64(lambda on, t: on.alpha(t), schedule, t_max), z.dtype
        ),
        prior="given" if callable(prior) else prior,
    )


def _moved(
    key: Array | None,
    denoiser: Denoiser,
    z: Array,
    settings: _Settings,
    t0: float | Array,
    t1: float | Array,
) -> tuple[Array, Array, Array, int | Array]:
    """Solves the ODE: z at `t1`, the divergence `[num, *batch]`, done, evaluations."""
    schedule, trace, solver = settings.schedule, settings.trace, settings.solver
    batch = settings.batch_ndim
    lengths = lambda schedule, *ends: [
        angular.angle(end, schedule=schedule)[1] for end in ends
    ]
    first, last = (
        jnp.asarray(length, z.dtype) for length in in_float64(lengths, schedule, t0, t1)
    )

    def slopes(level: angular.Level, state: Any, probes: Array) -> Any:
        field = lambda y: angular.slope(denoiser, y, level)
        return tuple(trace.divergence(field, state[0], probes, batch))

    sums = jnp.zeros((trace.num, *z.shape[:batch]), z.dtype)
    (y, sums), done, evaluations = solver.solve(
        slopes,
        (z / first, sums),
        trace.probes(key, z),
        t0,
        t1,
        schedule=schedule,
        batch_ndim=batch,
    )
    growth = math.prod(z.shape[batch:]) * jnp.log(last / first)
    reached = done.reshape(done.shape + (1,) * (z.ndim - batch))
    return jnp.where(reached, y * last, jnp.inf), sums + growth, done, evaluations


def _check_order(t_min: float | Array, t_max: float | Array) -> None:
    if is_traced(t_min, t_max):
        return
    if not 0 <= float(t_min) < float(t_max) <= 1:
        raise ValueError(
            f"t_min={t_min!r}, t_max={t_max!r}: must be "
            "0 <= t_min < t_max <= 1; t = 0 is data and t = 1 is noise"
        )
