"""Computes paths of particles from noise to data.

Gaussian data N(0, v) first, on the flow-matching schedule scaled by

    c_t = 1 + fraction (1 / sqrt((1 - t)^2 + t^2) - 1),

which is flow matching at fraction 0 and variance preserving at fraction 1, at the same
log-SNR. The exact flow is `z_t = z_1 sqrt(V_t / V_1)`, `V = alpha^2 v + sigma^2`. Then
a mixture, with noise in the sampler and without.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike
from scipy import optimize

from diffusionflow import analytic, grids, samplers, schedules
from diffusionflow._numeric import in_float64

STARTS = np.linspace(-2.0, 2.0, 6)  # z_1 of the particles
FINE = 255  # steps of what stands for the exact path in the published figures
FLOW, PRESERVING = 0.0, 1.0  # fractions
DDIM, EULER = samplers.ddim(), samplers.Euler("dz_dt")


class Paths(NamedTuple):
    """States of particles at the times of a grid.

    Fields:
      t: falling, `[num_steps + 1]`.
      z: `[*slider, num_steps + 1, num_particles]`, NumPy float64.
    """

    t: np.ndarray
    z: np.ndarray


class Scaling(NamedTuple):
    """The same particles by two samplers in few steps, and by DDIM in many.

    Fields:
      ddim: `Paths`.
      euler: `Paths` of Euler's method on the probability-flow ODE in t.
      fine: `Paths` of DDIM in `FINE` steps.
    """

    ddim: Paths
    euler: Paths
    fine: Paths


def scaled_flow(fraction: ArrayLike) -> schedules.Scaled:
    """Scales flow matching by c_t of the module.

    Args:
      fraction: a number or a scalar that may be traced.
    """
    scale_fn = jax.tree_util.Partial(_scale, fraction)
    return schedules.Scaled(schedules.FlowMatching(), scale_fn)


def _scale(fraction: float | Array, t: Array) -> Array:
    return 1 + fraction * (1 / jnp.sqrt((1 - t) ** 2 + t**2) - 1)


def gaussian_paths(
    fraction: ArrayLike,
    variance: ArrayLike,
    *,
    sampler: Any,
    num_steps: int,
    starts: ArrayLike = STARTS,
) -> Paths:
    """Computes paths of a deterministic sampler, with the exact denoiser of N(0, v).

    Args:
      fraction: of the scale, `[*slider]`.
      variance: of the data, broadcast against `fraction`.
      sampler: a deterministic one.
      num_steps: of a uniform grid.
      starts: z_1, `[num_particles]`.

    Returns:
      `Paths`.
    """
    times = grids.uniform(num_steps)

    def run(fraction: Array, variance: Array, z: Array) -> Array:
        schedule = scaled_flow(fraction)
        return samplers.sample(
            jax.random.key(0),
            analytic.gaussian(jnp.zeros(()), variance).denoise_fn(schedule=schedule),
            z,
            times,
            sampler=sampler,
            schedule=schedule,
            to_data=False,
            trajectory=True,
        ).trajectory

    return Paths(times, _for_each(run, (fraction, variance), starts))


def _for_each(
    run_fn: Callable[..., Array], sliders: tuple[ArrayLike, ...], starts: ArrayLike
) -> np.ndarray:
    """Evaluates `run_fn(*one of each slider, starts)` in float64, `[*slider, ...]`."""
    sliders = np.broadcast_arrays(*(np.asarray(each, np.float64) for each in sliders))
    shape = sliders[0].shape
    flat = [each.ravel() for each in sliders]
    axes = (*(0 for _ in flat), None)
    values = in_float64(jax.vmap(run_fn, axes), *flat, np.asarray(starts, np.float64))
    return values.reshape(*shape, *values.shape[1:])


def particles_under_scaling(
    fraction: ArrayLike,
    *,
    variance: ArrayLike = 0.25,
    num_steps: int = 5,
    starts: ArrayLike = STARTS,
) -> Scaling:
    """Shows that scaling a schedule changes Euler's method but not DDIM.

    Args:
      fraction: of the scale, 0 flow matching, 1 variance preserving, `[*slider]`.
      variance: of the data, broadcast against `fraction`.
      num_steps: of the two samplers.
      starts: z_1, `[num_particles]`.

    Returns:
      `Scaling`.

    Source: Gao et al. 2024, "Diffusion Meets Flow Matching", the figures with sliders
    for the scale and for the variance; theirs guard the first call at t = 1.
    """
    paths = lambda sampler, num_steps: gaussian_paths(
        fraction, variance, sampler=sampler, num_steps=num_steps, starts=starts
    )
    return Scaling(paths(DDIM, num_steps), paths(EULER, num_steps), paths(DDIM, FINE))


def exact_path(variance: ArrayLike, schedule: Any, t: ArrayLike) -> np.ndarray:
    """Computes `z_t / z_1` of the exact flow of N(0, v).

    Args:
      variance: `[*slider]`.
      schedule: any with sigma > 0 at t = 1.
      t: `[num_times]`.

    Returns:
      `[*slider, num_times]`.
    """
    level = lambda schedule, t: (schedule.alpha(t), schedule.sigma(t))
    alpha, sigma = in_float64(level, schedule, np.append(t, 1.0))
    total = np.asarray(variance)[..., None] * alpha**2 + sigma**2
    return np.sqrt(total[..., :-1] / total[..., -1:])


def straightness(
    variance: ArrayLike, schedule: Any, *, num_points: int = 4001
) -> np.ndarray:
    """Computes the largest distance of the exact path from its chord, per z_1.

    The distance is that in z at the same t: 0 for a straight path at an even pace. It
    is of one schedule; `metrics.straightness` is the mean square of the slopes.

    Args:
      variance: of the data, positive, `[*slider]`.
      schedule: any with sigma > 0 at t = 1.
      num_points: number of times.

    Returns:
      `[*slider]`.
    """
    t = np.linspace(0.0, 1.0, num_points)
    path = exact_path(variance, schedule, t)
    chord = path[..., :1] + (path[..., -1:] - path[..., :1]) * t
    return np.abs(path - chord).max(-1)


def end_error(
    variance: ArrayLike,
    fraction: ArrayLike,
    *,
    num_steps: int = 5,
    sampler: Any = EULER,
) -> np.ndarray:
    """Computes the error of a sampler's last state under the exact flow, per z_1.

    The scale is 1 at both ends, so the exact flow ends at `sqrt(v) z_1`.

    Args:
      variance: of the data, positive, `[*slider]`.
      fraction: of the scale, 0 flow matching, 1 variance preserving, broadcast against
        `variance`.
      num_steps: of a uniform grid in t.
      sampler: a deterministic one; by default Euler's method in t.

    Returns:
      `[*slider]`.
    """
    one = dict(sampler=sampler, num_steps=num_steps, starts=np.ones(1))
    end = gaussian_paths(fraction, variance, **one).z[..., -1, 0]
    return np.abs(end - np.sqrt(variance))


def crossover(measure: Callable[[Any, Any], Any], low: float, high: float) -> float:
    """Finds the variance at which flow matching and its v.p. scaling are equal.

    Args:
      measure: `(variance, fraction) -> number`, such as `end_error`.
      low: a variance below.
      high: one above, on the other side.
    """
    gap = lambda log: float(
        np.log(measure(np.exp(log), FLOW) / measure(np.exp(log), PRESERVING))
    )
    return float(np.exp(optimize.brentq(gap, np.log(low), np.log(high), xtol=1e-6)))


def trajectories(
    churn: ArrayLike,
    data: analytic.Mixture,
    *,
    schedule: Any,
    num_steps: int = 100,
    starts: ArrayLike = STARTS,
    seed: int = 0,
) -> Paths:
    """Computes paths of the churn family: 0 is DDIM, 1/2 is DDPM.

    Args:
      churn: in [0, 1], `[*slider]`.
      data: in one dimension, events of shape ().
      schedule: any.
      num_steps: of a uniform grid.
      starts: z_1, `[num_particles]`.
      seed: of the noise, which is the same at every churn.

    Returns:
      `Paths`.

    Raises:
      ValueError: a churn is outside.
    """
    times = grids.uniform(num_steps)
    for value in np.ravel(churn):
        samplers.Churn(float(value))

    def run(churn: Array, z: Array) -> Array:
        return samplers.sample(
            jax.random.key(seed),
            data.denoise_fn(schedule=schedule),
            z,
            times,
            sampler=samplers.Churn(churn),
            schedule=schedule,
            to_data=False,
            trajectory=True,
        ).trajectory

    return Paths(times, _for_each(run, (churn,), starts))
