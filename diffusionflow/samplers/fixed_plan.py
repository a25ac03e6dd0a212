"""A deterministic sampler whose coefficients are given, and changes of these."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from diffusionflow._dataclass import is_traced, register
from diffusionflow.predictions import Denoised, DenoiseFn
from diffusionflow.schedules import Schedule

ROUNDING = 1e-5  # of times and levels in float32
WAY_OUT = "compute others by samplers.optimize_coefficients, or use the sampler itself"


@register
class FixedPlan:
    """Takes the steps of a deterministic sampler with coefficients that are given.

    They belong to one grid of one schedule: `plan` returns them there, and refuses
    another number of steps, and other times and schedules where these are concrete.
    Noise that `sampler` takes is 0.

    Args:
      sampler: deterministic; its steps are taken.
      times: of the grid, `[num_steps + 1]`.
      rows: a plan of `sampler` on this grid, or one of the same structure.
      schedule: of the coefficients.
    """

    sampler: Any
    times: ArrayLike
    rows: Any
    schedule: Any

    num_noises = 0

    def __post_init__(self) -> None:
        steps = np.shape(self.times)[0] - 1
        counts = {np.shape(leaf)[0] for leaf in jax.tree.leaves(self.rows)}
        if counts - {steps}:
            raise ValueError(
                f"rows of {sorted(counts)} steps: must be of {steps}, those of times"
            )

    def plan(self, t: Array, s: Array, schedule: Schedule) -> Any:
        own, given = np.shape(self.times)[0] - 1, np.shape(s)[0]
        if given != own:
            raise ValueError(
                f"a grid of {given} steps: these coefficients are for {own}; {WAY_OUT}"
            )
        if not is_traced(t, s, self.times, schedule, self.schedule):
            self._check(np.append(t[:1], s), schedule)
        return self.rows

    def init(self, z: Array) -> Any:
        return self.sampler.init(z)

    def step(self, state: Any, row: Any, noise: Array, denoise_fn: DenoiseFn) -> Any:
        del noise
        z = self.sampler.output(state)
        zero = jnp.zeros((self.sampler.num_noises, *z.shape), z.dtype)
        return self.sampler.step(state, row, zero, denoise_fn)

    def output(self, state: Any) -> Array:
        return self.sampler.output(state)

    def _check(self, times: np.ndarray, schedule: Schedule) -> None:
        own = np.asarray(self.times)
        levels = lambda schedule, times: np.stack(
            [np.asarray(schedule.alpha(times)), np.asarray(schedule.sigma(times))]
        )
        wanted, given = levels(self.schedule, own), levels(schedule, times)
        gaps = np.abs(given - wanted).max(axis=0) / (1 + wanted.max(axis=0))
        gaps = np.maximum(gaps, np.abs(own - times))
        if not gaps.max() <= ROUNDING:
            place = int(np.argmax(gaps))
            raise ValueError(
                f"times[{place}]={times[place]} on {schedule!r}: these coefficients "
                f"are for the time {own[place]} on {self.schedule!r}; {WAY_OUT}"
            )


def with_changes(rows: Any, free: list[bool], change: Array) -> Any:
    """Adds the parts of `change` to the columns of a plan that are `free`."""
    leaves, structure = jax.tree.flatten(rows)
    place = 0
    for number, leaf in enumerate(leaves):
        if free[number]:
            shape, size = np.shape(leaf), np.size(leaf)
            part = change[place : place + size].reshape(shape)
            traced = isinstance(change, jax.Array)
            leaves[number] = (jnp.asarray(leaf, part.dtype) if traced else leaf) + part
            place += size
    return jax.tree.unflatten(structure, leaves)


def free_columns(sampler: Any, rows: Any) -> list[bool]:
    """Returns which leaves of a plan are coefficients: floating, and no times.

    Times are the columns that `step` hands to `denoise_fn`.
    """
    z = jax.ShapeDtypeStruct((), jnp.float32)
    first = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(np.shape(leaf)[1:], _dtype(leaf)), rows
    )
    handed, free = _Times(), []

    def step(z: Array, row: Any) -> None:
        noise = jnp.zeros((sampler.num_noises, *z.shape), z.dtype)
        sampler.step(sampler.init(z), row, noise, handed)
        leaves = jax.tree.leaves(row)
        if not all(any(t is leaf for leaf in leaves) for t in handed.times):
            raise ValueError(
                f"sampler={sampler!r}: must hand times of its plan's columns to "
                "denoise_fn, which are kept"
            )
        for leaf in leaves:
            time = any(t is leaf for t in handed.times)
            free.append(jnp.issubdtype(leaf.dtype, jnp.floating) and not time)

    jax.eval_shape(step, z, first)
    return free


class _Times:
    """A denoiser that notes the times at which it is evaluated."""

    def __init__(self) -> None:
        self.times: list[Any] = []

    def __call__(self, z: Array, t: Array) -> Denoised:
        self.times.append(t)
        return Denoised(z, z)

    def denoise_toward(self, z: Array, t: Array, s: Array) -> Denoised:
        self.times.extend((t, s))
        return Denoised(z, z)


def _dtype(leaf: Any) -> Any:
    dtype = np.asarray(leaf).dtype
    return jnp.float32 if jnp.issubdtype(dtype, jnp.floating) else dtype
