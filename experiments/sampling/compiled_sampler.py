"""The compiled sampler: the one path of the trainer and of the command line.

Sample i of seed s has keys of its own, so it is the same image whatever the batch size,
the shards and the number of devices. On a CPU that holds bit for bit, because the
program of a device always draws `CPU_WIDTH` samples at once, from a multiple of it on
(measured to be as fast as more); elsewhere a batch size of one's own changes roundings
of floats, of the order of 1e-6.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffusionflow import random, samplers
from experiments.config import build
from experiments.config.model import Model
from experiments.runtime import rng, sharding
from experiments.sampling.conditions import Conditions

CPU_WIDTH = 16

DrawFn = Callable[..., np.ndarray]


def make_draw_fn(
    model: Model,
    section: Mapping[str, Any],
    *,
    guidance: float,
    batch_size: int,
    most: int,
) -> DrawFn:
    """A compiled sampler.

    Args:
      model: of the run.
      section: `name`, `num_steps` and `grid` of the sampler.
      guidance: scale of classifier-free guidance; 1 conditional, 0 unconditional.
      batch_size: samples that a device draws at once, where it is not a CPU.
      most: samples wanted in one call, at most; devices beyond what that takes are
        not used.

    Returns:
      `draw_fn(params, seed, conditions, first=0, advance=None) -> x`: floats [n,
      *event] for n `Conditions`, the samples `first`, `first + 1`, ...;
      `advance(count)` is called as they come.

    Raises:
      UsageError: if sampler or grid are unknown.
    """
    schedule = model.objective.schedule
    sampler = build.sampler(section)
    times = build.grid(section, schedule)
    build.check_start(model.objective, times)
    width = CPU_WIDTH if jax.default_backend() == "cpu" else batch_size
    mesh = sharding.data_mesh(-(-most // width))
    everywhere, cut = sharding.replicated(mesh), sharding.along_batch(mesh)

    def on_device(params: Any, keys: jax.Array, given: Conditions, scale: Any) -> Any:
        scale = guidance if guidance in (0, 1) else scale
        denoise_fn = model.denoise_fn(params, given.labels, scale, given.vectors)
        prior_keys, noise_keys = random.split(keys)
        shape = (*given.labels.shape, *model.event_shape)
        z = samplers.prior(prior_keys, shape, schedule=schedule, t=times[0])
        return samplers.sample(
            noise_keys, denoise_fn, z, times, sampler=sampler, schedule=schedule
        ).x

    @functools.partial(jax.jit, compiler_options=sharding.compiler_options())
    def program(params: Any, keys: jax.Array, given: Conditions, scale: Any) -> Any:
        specs = (everywhere.spec, cut.spec, cut.spec, everywhere.spec)
        each = jax.shard_map(
            on_device, mesh=mesh, in_specs=specs, out_specs=cut.spec, check_vma=False
        )
        return each(params, keys, given, scale)

    def draw_fn(
        params: Any,
        seed: int,
        conditions: Conditions,
        first: int = 0,
        advance: Callable[[int], Any] | None = None,
    ) -> np.ndarray:
        params = jax.device_put(params, everywhere)
        scale = jax.device_put(np.float32(guidance), everywhere)
        parts, stream = [], rng.stream(seed, rng.SAMPLE)
        count = len(conditions.labels)
        end, together = first + count, width * mesh.size
        for start in range(first - first % width, end, together):
            number = np.arange(start, start + together)
            place = np.clip(number - first, 0, count - 1)
            keys = random.example_keys(stream, jnp.asarray(number, jnp.uint32))
            given = jax.tree.map(lambda array, at=place: array[at], conditions)
            placed = jax.device_put((keys, given), cut)
            x = np.asarray(program(params, *placed, scale))
            parts.append(x[(number >= first) & (number < end)])
            if advance is not None:
                advance(len(parts[-1]))
        return np.concatenate(parts)

    return draw_fn
