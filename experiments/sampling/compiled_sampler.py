"""The compiled sampler: the one path of the trainer and of the command line.

Sample i of seed s has keys of its own, so it is the same image whatever the batch size,
the shards and the number of devices. On a CPU that holds bit for bit, because the
program of a device always makes `cpu_width` samples at once, from a multiple of it on;
elsewhere a batch size of one's own changes roundings of floats, of the order of 1e-6.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from diffusionflow import random, samplers
from experiments.config import build
from experiments.config.model import Model
from experiments.runtime import rng, sharding
from experiments.sampling.conditions import Conditions
from experiments.sampling.edits import Edit, Parts

CPU_WIDTHS = 16, 128  # least and most
CPU_VALUES = 8_192

SampleFn = Callable[..., Any]


def cpu_width(event_shape: Sequence[int]) -> int:
    """Returns how many samples a program of a CPU makes at once.

    The power of two with at most `CPU_VALUES` values, within `CPU_WIDTHS`: 128 digits
    of 8x8 are faster together, 16 images of 32x32 are not slower than more.
    """
    fitting = max(1, CPU_VALUES // math.prod(event_shape))
    least, most = CPU_WIDTHS
    return min(most, max(least, 1 << (fitting.bit_length() - 1)))


def samples(result: samplers.Result, noise: jax.Array) -> jax.Array:
    """Returns the samples alone: what `sample_fn` gives by default."""
    del noise
    return result.x


def make_sample_fn(
    model: Model,
    section: Mapping[str, Any] | build.Sampling,
    *,
    guidance: float,
    batch_size: int,
    most: int,
    output_fn: Callable[[samplers.Result, jax.Array], Any] = samples,
    trajectory: bool = False,
    purpose: int = rng.SAMPLE,
    edit: Edit | None = None,
) -> SampleFn:
    """Makes a compiled sampler.

    Args:
      model: of the run.
      section: `name`, `num_steps` and `grid` of the sampler, or what `build.sampling`
        made of it.
      guidance: scale of classifier-free guidance; 1 conditional, 0 unconditional.
      batch_size: samples that a device makes at once, where it is not a CPU.
      most: samples wanted in one call, at most; devices beyond what that takes are
        not used.
      output_fn: `(result, noise) -> arrays [n, ...]`, a pytree that `sample_fn` gives;
        noise is the standard normal eps of the start, `z = sigma eps`.
      trajectory: whether the result has all states.
      purpose: of the random stream, one of `rng`.
      edit: from what the samples are made, in place of noise alone; then `sample_fn`
        gives what it gives, and `output_fn` and `trajectory` are not used.

    Returns:
      `sample_fn(params, seed, conditions, first=0, advance=None) -> x`: floats [n,
      *event], or what `output_fn` gives, for n `Conditions`, the samples `first`,
      `first + 1`, ...; `advance(count)` is called as they come.

    Raises:
      UsageError: if sampler or grid are unknown, or jumps would be guided.
    """
    schedule = model.objective.schedule
    if not isinstance(section, build.Sampling):
        section = build.sampling(section, schedule)
    sampler, times = section
    times = times if edit is None else edit.times(times)
    build.check_start(model.objective, times)
    build.check_guidance(model.net, sampler, guidance)
    is_cpu = jax.default_backend() == "cpu"
    width = cpu_width(model.event_shape) if is_cpu else batch_size
    recipe = Recipe(
        model, sampler, times, guidance, output_fn, trajectory, purpose, edit
    )
    return CompiledSampler(recipe, width, sharding.data_mesh(-(-most // width)))


class Recipe(NamedTuple):
    """What a device samples: arguments of `make_sample_fn`, the section resolved."""

    model: Model
    sampler: samplers.Sampler
    times: np.ndarray
    guidance: float
    output_fn: Callable[[samplers.Result, jax.Array], Any]
    trajectory: bool
    purpose: int
    edit: Edit | None

    def on_device(
        self,
        params: Any,
        seed: jax.Array,
        number: jax.Array,
        given: Conditions,
        inputs: Any,
        scale: Any,
    ) -> Any:
        """Samples `number` on one device; `inputs` are those of the edit."""
        model, schedule = self.model, self.model.objective.schedule
        keys = random.example_keys(rng.stream(seed, self.purpose), number)
        scale = self.guidance if self.guidance in (0, 1) else scale
        denoise_fn = model.denoise_fn(params, given.labels, scale, given.vectors)
        if self.edit is not None:
            parts = Parts(self.sampler, schedule, self.times, model.event_shape)
            return self.edit.sample(parts, keys, denoise_fn, inputs)
        prior_keys, noise_keys = random.split(keys)
        shape = (*given.labels.shape, *model.event_shape)
        z = samplers.prior(prior_keys, shape, schedule=schedule, t=self.times[0])
        result = samplers.sample(
            noise_keys,
            denoise_fn,
            z,
            self.times,
            sampler=self.sampler,
            schedule=schedule,
            trajectory=self.trajectory,
        )
        return self.output_fn(result, random.normal(prior_keys, shape))


class CompiledSampler:
    """The `sample_fn` of `make_sample_fn`.

    Args:
      recipe: of each device.
      width: samples that a device makes at once.
      mesh: of the devices.
    """

    def __init__(self, recipe: Recipe, width: int, mesh: Mesh):
        self._recipe, self._width, self._together = recipe, width, width * mesh.size
        self._replicated = sharding.replicated(mesh)
        self._sharded = sharding.along_batch(mesh)
        same, each = self._replicated.spec, self._sharded.spec
        self._program = jax.jit(
            jax.shard_map(
                recipe.on_device,
                mesh=mesh,
                in_specs=(same, same, each, each, each, same),
                out_specs=each,
                check_vma=False,
            ),
            compiler_options=sharding.compiler_options(),
        )

    def __call__(
        self,
        params: Any,
        seed: int,
        conditions: Conditions,
        first: int = 0,
        advance: Callable[[int], Any] | None = None,
    ) -> Any:
        """Samples `first`, `first + 1`, ..., one of each condition."""
        constants = params, np.uint32(seed), np.float32(self._recipe.guidance)
        params, of_seed, scale = jax.device_put(constants, self._replicated)
        sampled = []
        end = first + len(conditions.labels)
        for start in range(first - first % self._width, end, self._together):
            number = np.arange(start, start + self._together)
            placed = self._placed(number, first, conditions)
            kept = (number >= first) & (number < end)
            found = jax.device_get(self._program(params, of_seed, *placed, scale))
            sampled.append(jax.tree.map(lambda array, at=kept: array[at], found))
            if advance is not None:
                advance(int(kept.sum()))
        return jax.tree.map(lambda *arrays: np.concatenate(arrays), *sampled)

    def _placed(self, number: np.ndarray, first: int, conditions: Conditions) -> Any:
        """Shards a batch; samples outside the request reuse the nearest condition."""
        recipe = self._recipe
        place = np.clip(number - first, 0, len(conditions.labels) - 1)
        given = jax.tree.map(lambda array: array[place], conditions)
        edit = recipe.edit
        inputs = None if edit is None else edit.inputs(number, recipe.purpose)
        return jax.device_put((number.astype(np.uint32), given, inputs), self._sharded)
