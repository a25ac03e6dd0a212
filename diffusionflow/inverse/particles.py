"""Twisted sequential Monte Carlo: particles whose law converges to the posterior."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from diffusionflow import random, samplers
from diffusionflow._dataclass import (
    check_bound,
    check_count,
    check_not_negative,
    check_positive,
)
from diffusionflow.inverse.denoisers import both, isotropic_variance, solve_isotropic
from diffusionflow.inverse.operators import MOST_ITERATIONS, Measurement
from diffusionflow.predictions import (
    Denoised,
    DenoiseFn,
    Denoiser,
    as_data,
    as_denoiser,
)
from diffusionflow.samplers.base import step_to_data
from diffusionflow.samplers.nfe import times_calls
from diffusionflow.samplers.steps import as_grid, check_times
from diffusionflow.schedules import Schedule, as_schedule


class Particles(NamedTuple):
    """Weighted samples.

    Fields:
      x: `[particles, *event]`.
      log_weights: of their shares, `[particles]`; `exp` of them adds up to 1.
      effective: effective number of particles before each resampling, `[num_steps]`.
      nfe: NFE of all particles, counted once for the batch; None where unknown or
        where it varies with the time.
    """

    x: Array
    log_weights: Array
    effective: Array
    nfe: int | Array | None


class _State(NamedTuple):
    z: Array
    log_weights: Array  # without that of the twist at z
    twist: Array  # of the step before


class _Twisted(NamedTuple):
    """What one evaluation gives at z; leading axis of the particles."""

    denoised: Denoised
    twist: Array
    gradient: Array


def twisted_smc(
    key: Array,
    denoise_fn: DenoiseFn,
    z: Array,
    times: ArrayLike,
    measurement: Measurement,
    *,
    schedule: Schedule,
    data_variance: ArrayLike = 1.0,
    threshold: float = 0.5,
    num_iterations: int = 5,
) -> Particles:
    """Samples by twisted diffusion (TDS): DDPM's steps, guided, weighted and resampled.

    A twist `p~(y | z) = N(y; A x_hat, std^2 I + r^2 A A^T)` (that of `pigdm`) shifts
    DDPM's mean by its gradient times the variance of the step. Weights correct for it:

        w_s = p(z_s | z_t) p~(y | z_s) / (p~(z_s | z_t, y) p~(y | z_t)),

    with the exact likelihood of y at the end. So whatever the twist, the weighted
    particles converge to the posterior as their number grows, under the prior that DDPM
    samples on this grid. With few particles, in many dimensions or with a small std,
    most weights vanish: look at `effective`.

    Args:
      key: scalar.
      denoise_fn: `(z, t) -> Denoised`, of the prior.
      z: start, such as `samplers.prior(...)`, `[particles, *event]`: all of them are
        for one y.
      times: timestep schedule (sampling grid), `[num_steps + 1]`, falling.
      measurement: with y `[*output]` and std > 0.
      schedule: the one of `denoise_fn`.
      data_variance: v of the twist's `r^2`, at least 0; 0 is the twist of the source.
      threshold: particles are resampled where the effective number of them is below
        this fraction; 1 for always, 0 for never.
      num_iterations: of conjugate gradients in the twist.

    Returns:
      `Particles`; `resample` makes equal weights of them. A step counts twice in the
      NFE: a call and a product with the transposed Jacobian.

    Raises:
      ValueError: a setting is out of bounds, or as `samplers.sample`.

    Source: Wu et al. 2023, arXiv 2306.17775, algorithm 1.
    """
    check_positive("std", measurement.std, "without noise every weight is 0")
    inside = lambda fraction: 0 <= fraction <= 1
    check_bound("threshold", threshold, inside, "in [0, 1]")
    check_not_negative("data_variance", data_variance)
    check_count("num_iterations", num_iterations, most=MOST_ITERATIONS)
    z = as_data(z, "z")
    if z.ndim < 2 or not len(z):
        raise ValueError(f"z of shape {z.shape}: must be [particles, *event]")
    denoiser = as_denoiser(denoise_fn, like=z, schedule=as_schedule(schedule))
    twist = _Twist(denoiser, measurement, schedule, data_variance, num_iterations)
    check_times(denoiser, as_grid(times)[:-1], z)
    plan = samplers.plan(samplers.ddpm(), times, schedule=schedule)
    rows = jax.tree.map(lambda column: jnp.asarray(column, z.dtype), plan)
    num_steps, num_particles = len(times) - 1, z.shape[0]  # type: ignore[arg-type]

    def step(state: _State, numbered: Any) -> tuple[_State, Array]:
        row, number = numbered
        pick_key, noise_key = random.split(random.fold_in(key, number))
        here = twist(state.z, row["t"])
        log_weights = _normal(state.log_weights + here.twist - state.twist)
        effective = jnp.exp(-jax.nn.logsumexp(2 * log_weights))
        few = effective < threshold * num_particles
        index = jnp.where(few, _pick(pick_key, log_weights), jnp.arange(num_particles))
        here = jax.tree.map(lambda part: part[index], here)
        log_weights = jnp.where(few, -jnp.log(float(num_particles)), log_weights)
        std, noise = row["noise"], random.normal(noise_key, z.shape, z.dtype)
        mean = row["x"] * here.denoised.x + row["eps"] * here.denoised.eps
        moved = mean + std**2 * here.gradient + std * noise
        slope = std * here.gradient  # log p / p~ of the step, without dividing by std
        change = -_total(slope * noise) - _total(slope**2) / 2
        return _State(moved, log_weights + change, here.twist), effective

    zero = jnp.zeros(num_particles, z.dtype)
    numbered = (rows, jnp.arange(num_steps))
    state, effective = jax.lax.scan(step, _State(z, zero, zero), numbered)
    run = samplers.Result(state.z, times_calls(denoiser, 2 * num_steps), None)
    x, nfe, _ = step_to_data(run, denoiser, as_grid(times)[-1], schedule)
    x = denoiser.finalize(x)
    residual = measurement.residual(x)
    twist_end = -_total(residual**2) / (2 * measurement.variance(residual))
    log_weights = _normal(state.log_weights + twist_end - state.twist)
    return Particles(x, log_weights, effective, nfe)


def resample(key: Array, particles: Particles) -> Array:
    """Draws as many particles with equal weights, systematically.

    Args:
      key: scalar.
      particles: of `twisted_smc`.

    Returns:
      `[particles, *event]`, with repetitions; NaN where the weights are no shares, as
      after a particle that was not finite.
    """
    drawn = particles.x[_pick(key, particles.log_weights)]
    known = jnp.isfinite(jax.nn.logsumexp(particles.log_weights))
    return jnp.where(known, drawn, jnp.nan)


class _Twist(NamedTuple):
    denoiser: Denoiser
    measurement: Measurement
    schedule: Schedule
    data_variance: ArrayLike
    num_iterations: int

    def __call__(self, z: Array, t: Array) -> _Twisted:
        """Computes the prediction, `log p~(y | z)` without constants, its gradient."""
        x, vjp, eps = jax.vjp(both(self.denoiser, t), z, has_aux=True)
        residual = self.measurement.residual(x)
        spread = isotropic_variance(self.schedule, t, self.data_variance)
        solved = solve_isotropic(
            self.measurement, residual, spread, self.num_iterations
        )
        (gradient,) = vjp(self.measurement.operator.transpose(solved))
        return _Twisted(Denoised(x, eps), -_total(residual * solved) / 2, gradient)


def _total(value: Array) -> Array:
    """Sums over the event, `[particles]`."""
    return jnp.sum(value.reshape(value.shape[0], -1), axis=1)


def _normal(log_weights: Array) -> Array:
    return log_weights - jax.nn.logsumexp(log_weights)


def _pick(key: Array, log_weights: Array) -> Array:
    """Resamples systematically: by one uniform number, and equal steps from it."""
    count = log_weights.shape[0]
    ends = jnp.cumsum(jnp.exp(log_weights))
    start = jax.random.uniform(key, (), ends.dtype)
    places = (jnp.arange(count, dtype=ends.dtype) + start) / count
    return jnp.minimum(jnp.searchsorted(ends / ends[-1], places), count - 1)
