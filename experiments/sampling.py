"""Drawing samples: the one path of the trainer and of the command line.

Sample i of seed s has keys of its own, so it is the same image whatever the batch size.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffusionflow import random, samplers
from experiments import build
from experiments.model import Model

DrawFn = Callable[..., np.ndarray]


def make_draw_fn(
    model: Model, section: Mapping[str, Any], *, guidance: float, batch_size: int
) -> DrawFn:
    """A compiled sampler.

    Args:
      model: of the run.
      section: `name`, `num_steps` and `grid` of the sampler.
      guidance: scale of classifier-free guidance; 1 conditional, 0 unconditional.
      batch_size: samples drawn at once.

    Returns:
      `draw_fn(params, seed, labels) -> x`: floats [n, *event] for labels [n], in the
      order of the labels.
    """
    schedule = model.objective.schedule
    sampler = build.sampler(section)
    times = build.grid(section, schedule)

    def program(params: Any, keys: jax.Array, labels: jax.Array, scale: Any) -> Any:
        scale = guidance if guidance in (0, 1) else scale
        denoise_fn = model.denoise_fn(params, labels, scale)
        prior_keys, noise_keys = random.split(keys)
        shape = (*labels.shape, *model.event_shape)
        z = samplers.prior(prior_keys, shape, schedule=schedule, t=times[0])
        return samplers.sample(
            noise_keys, denoise_fn, z, times, sampler=sampler, schedule=schedule
        ).x

    compiled = jax.jit(program)

    def draw_fn(params: Any, seed: int, labels: np.ndarray) -> np.ndarray:
        parts = []
        for start in range(0, len(labels), batch_size):
            number = np.arange(start, start + batch_size)
            known = labels[np.minimum(number, len(labels) - 1)]
            keys = random.example_keys(seed, jnp.asarray(number))
            x = compiled(params, keys, jnp.asarray(known, jnp.int32), guidance)
            parts.append(np.asarray(x))
        return np.concatenate(parts)[: len(labels)]

    return draw_fn


def labels_in_turn(count: int, num_classes: int) -> np.ndarray:
    """The classes 0, 1, ... in turn, int32 [count]."""
    return np.arange(count, dtype=np.int32) % num_classes


def by_class(per_class: int, num_classes: int) -> np.ndarray:
    """`per_class` labels of each class, class after class: one class a row."""
    return np.repeat(np.arange(num_classes, dtype=np.int32), per_class)
