"""Checks which trajectories a sampler follows exactly in a given number of steps."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from diffusionflow._numeric import in_float64
from diffusionflow.predictions import Denoised, to_denoised
from diffusionflow.samplers.base import Sampler, plan, sample
from diffusionflow.samplers.fixed_plan import FixedPlan
from diffusionflow.samplers.steps import as_grid
from diffusionflow.samplers.variables import scale
from diffusionflow.schedules import Schedule


class Consistency(NamedTuple):
    """Errors of end points on ODEs whose solution is known, in units of u.

    Fields:
      constant: where u_hat is constant, as x_hat and eps_hat then are. A method that
        is not exact here misses even data that are one point.
      linear: where u_hat is linear in `sigma / (alpha + sigma)`.
    """

    constant: float
    linear: float


def consistency(
    sampler: Sampler, times: ArrayLike, *, schedule: Schedule
) -> Consistency:
    """Computes the errors of a deterministic sampler on known trajectories.

    With c = sigma / (alpha + sigma) the probability-flow ODE is
    `d(z / (alpha + sigma)) / dc = u`. Its solutions for u = 0 and u = 1 (`constant`:
    the larger error) and for u = c (`linear`) are compared with the end points of the
    sampler, the step to the data of `samplers.sample` included.

    Args:
      sampler: deterministic; noise that it takes is 0.
      times: timestep schedule (sampling grid), `[num_steps + 1]`, falling.
      schedule: any.

    Returns:
      `Consistency`, computed in float64.

    Raises:
      ValueError: `times` is no grid, or the sampler is none.

    Example: DDIM is Euler's method in u, exact where u is constant.
      >>> from diffusionflow import grids, samplers, schedules
      >>> flow, times = schedules.FlowMatching(), grids.uniform(4)
      >>> found = consistency(samplers.ddim(), times, schedule=flow)
      >>> [round(error, 12) for error in found]  # of Euler's sum, 1 / 2 of a step
      [0.0, 0.125]
    """
    rows = plan(sampler, times, schedule=schedule)
    silent = FixedPlan(sampler, times, rows, schedule)
    errors = in_float64(_errors, silent, as_grid(times), schedule)
    return Consistency(float(errors[:2].max()), float(errors[2]))


def _errors(sampler: Any, times: Array, schedule: Schedule) -> Array:
    """Computes end errors for u = 0 from z = alpha + sigma, and u = 1, u = c from 0."""
    constant, linear = np.array([0.0, 1.0, 0.0]), np.array([0.0, 0.0, 1.0])

    def clock(t: Array) -> Array:
        return schedule.sigma(t) / (schedule.alpha(t) + schedule.sigma(t))

    def denoise_fn(z: Array, t: Array) -> Denoised:
        u = constant + linear * clock(t)
        return to_denoised(u, kind="u", z=z, t=t, schedule=schedule)

    z = scale("u", times[0], schedule) * jnp.array([1.0, 0.0, 0.0])
    end = sample(None, denoise_fn, z, times, sampler=sampler, schedule=schedule).x
    if schedule.sigma(times[-1]) == 0:
        end = end / schedule.alpha(times[-1])  # else it is x_hat of the last step
    first = clock(times[0])
    return jnp.abs(end - jnp.stack([jnp.ones(()), -first, -(first**2) / 2]))
