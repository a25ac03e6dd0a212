"""Randomness that does not depend on how a batch is cut.

A key is scalar, or an array of typed keys of shape `[*batch]`, one per example. With
keys from `example_keys(seed, index)`, example i is the same for every batch size,
device and process count.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from diffusionflow._dataclass import check_bound, register


def example_keys(seed: ArrayLike, index: ArrayLike) -> Array:
    """One key per example: `fold_in(seed, index)`.

    Args:
      seed: an integer in [0, 2^32), or a scalar typed key (such as one folded with a
        step).
      index: global example numbers, integers, `[*batch]`.

    Returns:
      Typed threefry keys, `[*batch]`.

    Raises:
      ValueError: `seed` is out of range, where it would equal another.
    """
    check_bound("seed", seed, lambda seed: 0 <= seed < 2**32, "in [0, 2**32)")
    typed = isinstance(seed, Array) and jnp.issubdtype(seed.dtype, jax.dtypes.prng_key)
    base = seed if typed else jax.random.key(seed, impl="threefry2x32")
    return fold_in(jnp.broadcast_to(base, jnp.shape(index)), index)


def fold_in(key: Array, data: ArrayLike) -> Array:
    """`jax.random.fold_in` for a scalar key or keys `[*batch]`; `data` broadcasts."""
    check_key(key)
    data = jnp.broadcast_to(jnp.asarray(data), key.shape).astype(jnp.uint32)
    if key.ndim == 0:
        return jax.random.fold_in(key, data)
    folded = jax.vmap(jax.random.fold_in)(key.reshape(-1), data.reshape(-1))
    return folded.reshape(key.shape)


def split(key: Array, num: int = 2) -> tuple[Array, ...]:
    """`num` independent keys, each of the shape of `key`."""
    return tuple(fold_in(key, number) for number in range(num))


def normal(key: Array, shape: tuple[int, ...], dtype: object = None) -> Array:
    """Standard normal draws.

    Args:
      key: scalar, or `[*batch]` where `shape` is `[*batch, *event]`.
      shape: of the result.
      dtype: a floating type; by default JAX's own.

    Raises:
      ValueError: `key` is no typed key, its shape does not begin `shape`, or it is an
        array of keys of a generator whose draws depend on the batch.
    """
    return _per_example(
        lambda key, shape: jax.random.normal(key, shape, dtype), key, shape
    )


LATTICE = 2**23


def lattice(key: Array, shape: tuple[int, ...]) -> Array:
    """Uniform integers in [0, `LATTICE`), uint32; `key` as in `normal`."""
    bits = _per_example(
        lambda key, shape: jax.random.bits(key, shape, jnp.uint32), key, shape
    )
    return bits.astype(jnp.uint32) >> 9


def from_lattice(number: Array) -> Array:
    """`(number + 1/2) / LATTICE` in float32: inside (0, 1), never 0 or 1."""
    return (number.astype(jnp.float32) + 0.5) / LATTICE


def uniform(key: Array, shape: tuple[int, ...]) -> Array:
    """Uniform draws in the *open* interval (0, 1), float32; `key` as in `normal`."""
    return from_lattice(lattice(key, shape))


def check_key(key: Array) -> None:
    """Raises a `ValueError` where `key` is untyped, or batched and not threefry."""
    if not jnp.issubdtype(jnp.result_type(key), jax.dtypes.prng_key):
        raise ValueError(
            f"key has dtype {jnp.result_type(key)}: must be a typed key, as made by "
            "jax.random.key or diffusionflow.random.example_keys"
        )
    if key.ndim and "threefry" not in str(jax.random.key_impl(key)):
        raise ValueError(
            f"keys of shape {key.shape} use {jax.random.key_impl(key)}, whose draws "
            "depend on the batch: use threefry2x32, or one scalar key"
        )


def _per_example(draw, key: Array, shape: tuple[int, ...]) -> Array:
    check_key(key)
    if key.ndim == 0:
        return draw(key, shape)
    if shape[: key.ndim] != key.shape:
        raise ValueError(
            f"keys of shape {key.shape} cannot draw {shape}: the shape must begin with "
            "the shape of the keys"
        )
    event = shape[key.ndim :]
    draws = jax.vmap(lambda key: draw(key, event))(key.reshape(-1))
    return draws.reshape(shape)


@register
class Independent:
    """Fresh normal noise for every step of a sampler."""

    def draw(self, key: Array, step: ArrayLike, num_noises: int, z: Array) -> Array:
        """Noise of step number `step`.

        Args:
          key: scalar, or `[*batch]`.
          step: number of the step, counted from 0 at the noise end.
          num_noises: draws per step, static.
          z: the state, `[*batch, *event]`.

        Returns:
          `[num_noises, *batch, *event]`.
        """
        keys = split(fold_in(key, step), num_noises)
        return jnp.stack([normal(key, z.shape, z.dtype) for key in keys])


@register
class Recorded:
    """Noise handed in: `values[step]` is what step number `step` uses.

    Args:
      values: `[num_steps, num_noises, *batch, *event]`.
    """

    values: Array

    def draw(self, key: Array, step: ArrayLike, num_noises: int, z: Array) -> Array:
        """As `Independent.draw`; `key` is not used."""
        del key
        if np.shape(self.values)[1:] != (num_noises, *z.shape):
            raise ValueError(
                f"recorded noise has shape {np.shape(self.values)}: must be "
                f"[num_steps, {num_noises}, *{z.shape}]"
            )
        return jnp.asarray(self.values, z.dtype)[step]
