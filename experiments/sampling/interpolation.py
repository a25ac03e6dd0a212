"""Samples between two: from noises on the great circle between two noises."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from diffusionflow import random, register, samplers
from diffusionflow.predictions import DenoiseFn
from experiments.runtime import rng
from experiments.runtime.progress import PartProgress
from experiments.sampling.conditions import Conditions
from experiments.sampling.edits import Edit, Parts, RunFn
from experiments.sampling.inversion import Encoding

PARALLEL = 1e-4  # radians between noises below which the straight line is taken


def spherical(a: jax.Array, b: jax.Array, weight: jax.Array) -> jax.Array:
    """Interpolates spherically between arrays.

    `(sin((1 - w) angle) a + sin(w angle) b) / sin(angle)`, with the angle between a and
    b over the event; a at w = 0 and b at w = 1, bit for bit.

    Args:
      a: `[n, *event]`.
      b: like `a`.
      weight: w in [0, 1], `[n]`.

    Returns:
      Array like `a`.

    Source: Song et al. 2020, arXiv 2010.02502, appendix D.5.
    """
    axes = tuple(range(1, a.ndim))
    total = lambda values: jnp.sum(values, axis=axes, keepdims=True)
    scale = jnp.sqrt(total(a * a) * total(b * b))
    cosine = total(a * b) / jnp.where(scale > 0, scale, 1)
    angle = jnp.arccos(jnp.clip(cosine, -1, 1))
    w = weight.reshape(-1, *(1 for _ in axes)).astype(a.dtype)
    curved = jnp.minimum(angle, jnp.pi - angle) > PARALLEL
    sine = jnp.where(curved, jnp.sin(angle), 1)
    first = jnp.where(curved, jnp.sin((1 - w) * angle) / sine, 1 - w)
    last = jnp.where(curved, jnp.sin(w * angle) / sine, w)
    between = first * a + last * b
    return jnp.where(w == 0, a, jnp.where(w == 1, b, between))


@register
class NoiseBetween:
    """Noise of a sampler's steps between that of two keys.

    Args:
      other: keys [n], of the noise at weight 1; that of weight 0 has the sampler's.
      weight: [n].
    """

    other: Any
    weight: Any

    def draw(self, key: Any, step: ArrayLike, num_noises: int, z: Any) -> jax.Array:
        """Draws the noise of step number `step`, `[num_noises, *z.shape]`."""
        source = random.Independent()
        ends = (source.draw(each, step, num_noises, z) for each in (key, self.other))
        return jnp.stack(
            [spherical(a, b, self.weight) for a, b in zip(*ends, strict=True)]
        )


class Between(Edit):
    """Base class: sample i is column `i % columns` of row `i // columns`.

    Fields:
      columns: samples in a row, both ends counted.
    """

    columns: int

    def rows(self, number: np.ndarray) -> np.ndarray:
        return number // self.columns

    def weight(self, number: np.ndarray) -> np.ndarray:
        """Computes how far samples are from the first end to the last, in [0, 1]."""
        return (number % self.columns / (self.columns - 1)).astype(np.float32)


class BetweenSeeds(Between):
    """Samples from those of one seed to those of another.

    Row r goes from sample r of the first seed to sample r of the last.

    Args:
      first: seed.
      last: seed.
      columns: samples in a row, both ends counted.
    """

    def __init__(self, first: int, last: int, columns: int):
        self._seeds, self.columns = (first, last), columns

    def inputs(self, number: np.ndarray, purpose: int) -> Any:
        rows = jnp.asarray(self.rows(number), jnp.uint32)
        keys = (
            random.example_keys(rng.stream(seed, purpose), rows) for seed in self._seeds
        )
        return *keys, self.weight(number)

    def sample(
        self, parts: Parts, keys: jax.Array, denoise_fn: DenoiseFn, inputs: Any
    ) -> Any:
        del keys
        first, last, weight = inputs
        (start, one), (end, other) = random.split(first), random.split(last)
        shape = (*weight.shape, *parts.event_shape)
        between = spherical(
            random.normal(start, shape), random.normal(end, shape), weight
        )
        noise = NoiseBetween(other, weight)
        return _from_noise(parts, one, denoise_fn, between, noise)


class BetweenPictures(Between):
    """Samples from one picture to another, a row a pair, between their encodings.

    Args:
      first: pictures, float32 [k, *event].
      last: as many.
      columns: samples in a row, both ends counted.
    """

    def __init__(self, first: np.ndarray, last: np.ndarray, columns: int):
        self._pictures, self.columns = (first, last), columns

    def prepare(self, run_fn: RunFn, given: Conditions) -> None:
        """Encodes the pictures of each row under the condition of the row."""
        count = len(self._pictures[0])
        number = np.tile(np.arange(count) * self.columns, 2)
        encoding = Encoding(np.concatenate(self._pictures))
        with PartProgress("encoding", 2 * count, "pictures") as meter:
            found = run_fn(encoding, given.at(number), meter.advance)
        self._encodings = found[:count], found[count:]

    def inputs(self, number: np.ndarray, purpose: int) -> Any:
        rows = self.rows(number) % len(self._encodings[0])
        return *(noise[rows] for noise in self._encodings), self.weight(number)

    def sample(
        self, parts: Parts, keys: jax.Array, denoise_fn: DenoiseFn, inputs: Any
    ) -> Any:
        first, last, weight = inputs
        return _from_noise(
            parts, keys, denoise_fn, spherical(first, last, weight), None
        )


def _from_noise(
    parts: Parts, keys: jax.Array, denoise_fn: DenoiseFn, eps: jax.Array, noise: Any
) -> jax.Array:
    """Samples from the noise `sigma eps`."""
    sigma = jnp.asarray(parts.schedule.sigma(parts.times[0]), eps.dtype)
    return samplers.sample(
        keys,
        denoise_fn,
        sigma * eps,
        parts.times,
        sampler=parts.sampler,
        schedule=parts.schedule,
        noise=noise,
    ).x
