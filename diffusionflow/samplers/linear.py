"""Samplers as linear maps: the weights of predictions and noise in a sample."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from diffusionflow import grids, predictions, random
from diffusionflow._numeric import in_float64
from diffusionflow.predictions import AnyKind, Denoised, DenoiseFn
from diffusionflow.samplers.base import Sampler, plan, run
from diffusionflow.samplers.steps import as_grid
from diffusionflow.schedules import Schedule


class Coefficients(NamedTuple):
    """A sampler as a linear map of predictions and noise:

    `z_end = initial z_start + sum_ij h_ij p_ij + sum_ij c_ij xi_ij`.

    Fields:
      h: weights of the predictions, `[num_steps, calls]`, with one row for each of the
        plan.
      c: weights of the noise, `[num_steps, num_noises]`.
      initial: weight of the first z, `[]`.
    """

    h: ArrayLike
    c: ArrayLike
    initial: ArrayLike


def coefficients(
    sampler: Sampler, times: ArrayLike, *, schedule: Schedule, kind: AnyKind
) -> Coefficients:
    """Computes the weights of predictions and noise in the result of `run`.

    They are the derivative of `run` itself, with prediction j of step i, of type
    `kind`, replaced by an independent variable; the sampler must be linear in them.

    Args:
      sampler: any linear one.
      times: timestep schedule (sampling grid), `[num_steps + 1]`, falling.
      schedule: any.
      kind: prediction type of the weighed predictions.

    Returns:
      `Coefficients`, NumPy float64 where all is concrete. A call that a step skips has
      weight 0.

    Raises:
      ValueError: `times` is no grid, or `kind` is singular on it.

    Example:
      >>> from diffusionflow import samplers, schedules
      >>> flow, times = schedules.FlowMatching(), grids.uniform(4)
      >>> weights = coefficients(samplers.ddim(), times, schedule=flow, kind="u")
      >>> weights.h[:, 0].tolist(), float(weights.initial)  # z_0 = z_1 - sum of u / 4
      ([-0.25, -0.25, -0.25, -0.25], 1.0)
    """
    times = as_grid(grids.check_grid(times))
    predictions.check_determined(kind, times[:-1], schedule=schedule)
    return in_float64(
        _coefficients, sampler, times, schedule, predictions.as_kind(kind)
    )


def _coefficients(
    sampler: Sampler, times: Array, schedule: Schedule, kind: AnyKind
) -> Coefficients:
    rows = plan(sampler, times, schedule=schedule)
    zero = jnp.zeros((), jnp.result_type(float))
    num_steps = jax.tree.leaves(rows)[0].shape[0]

    def end(z: Array, values: Array, noise: Array) -> Array:
        prescribed: Any = _Prescribed(sampler, kind, schedule)
        source, unused = random.Recorded(noise), lambda z, t: Denoised(z, z)
        result = run(None, unused, z, (rows, values), sampler=prescribed, noise=source)
        return result.x

    calls = _stages(sampler, rows, zero)
    values = jnp.zeros((num_steps, calls), zero.dtype)
    noise = jnp.zeros((num_steps, sampler.num_noises), zero.dtype)
    initial, h, c = jax.grad(end, argnums=(0, 1, 2))(zero, values, noise)
    return Coefficients(h, c, initial)


class _Prescribed(NamedTuple):
    """A sampler whose step i sees `values[i, j]` as the prediction of its j-th call."""

    sampler: Any
    kind: Any
    schedule: Any

    @property
    def num_noises(self) -> int:
        return self.sampler.num_noises

    def init(self, z: Array) -> Any:
        return self.sampler.init(z)

    def step(self, state: Any, row: Any, noise: Array, denoise_fn: DenoiseFn) -> Any:
        del denoise_fn
        row, values = row
        stage = iter(range(values.shape[0]))
        prescribed = lambda z, t: predictions.to_denoised(
            values[next(stage)], kind=self.kind, z=z, t=t, schedule=self.schedule
        )
        return self.sampler.step(state, row, noise, prescribed)

    def output(self, state: Any) -> Array:
        return self.sampler.output(state)


def _stages(sampler: Sampler, rows: Any, z: Array) -> int:
    """Counts evaluations of `denoise_fn` that one step of the program contains."""
    count = 0

    def counting(z: Array, t: Array) -> Denoised:
        nonlocal count
        count += 1
        return Denoised(z, z)

    noise = jnp.zeros((sampler.num_noises, *z.shape), z.dtype)
    first = jax.tree.map(lambda column: jnp.asarray(column)[0], rows)
    step = lambda z, row: sampler.step(sampler.init(z), row, noise, counting)
    jax.eval_shape(step, z, first)
    return count
