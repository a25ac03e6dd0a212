"""Random numbers that do not depend on how a batch is split.

A key is scalar, or an array of typed keys of shape `[*batch]`, one per example. With
keys from `example_keys(seed, index)`, example i is the same for every batch size,
device and process count.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike, DTypeLike

from diffusionflow._dataclass import check_bound, is_traced, register


def example_keys(seed: ArrayLike, index: ArrayLike) -> Array:
    """Makes one key per example: `fold_in(seed, index)`.

    Args:
      seed: an integer in [0, 2^32), or a scalar typed key (such as one folded with a
        step).
      index: global example numbers, integers, `[*batch]`.

    Returns:
      Typed threefry keys, `[*batch]`.

    Raises:
      ValueError: `seed` is out of range, where it would equal another.

    Example:
      >>> few, many = example_keys(0, jnp.arange(2)), example_keys(0, jnp.arange(8))
      >>> bool((normal(few, (2, 3)) == normal(many, (8, 3))[:2]).all())
      True
    """
    check_bound("seed", seed, lambda seed: 0 <= seed < 2**32, "in [0, 2**32)")
    typed = isinstance(seed, Array) and jnp.issubdtype(seed.dtype, jax.dtypes.prng_key)
    base = seed if typed else jax.random.key(seed, impl="threefry2x32")
    return fold_in(jnp.broadcast_to(base, jnp.shape(index)), index)


def fold_in(key: Array, data: ArrayLike) -> Array:
    """Applies `jax.random.fold_in` to one key or many.

    Args:
      key: scalar, or `[*batch]`.
      data: integers, broadcast to `key`.
    """
    check_key(key)
    data = jnp.broadcast_to(jnp.asarray(data), key.shape).astype(jnp.uint32)
    if key.ndim == 0:
        return jax.random.fold_in(key, data)
    folded = jax.vmap(jax.random.fold_in)(key.reshape(-1), data.reshape(-1))
    return folded.reshape(key.shape)


def split(key: Array, num: int = 2) -> tuple[Array, ...]:
    """Splits a key into independent keys, each of the shape of `key`.

    Args:
      key: scalar, or `[*batch]`.
      num: of keys.
    """
    return tuple(fold_in(key, number) for number in range(num))


def normal(key: Array, shape: tuple[int, ...], dtype: DTypeLike | None = None) -> Array:
    """Samples standard normal noise.

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
    """Samples uniform integers in [0, `LATTICE`), uint32.

    Args:
      key: scalar, or `[*batch]` where `shape` is `[*batch, *event]`.
      shape: of the result.
    """
    bits = _per_example(
        lambda key, shape: jax.random.bits(key, shape, jnp.uint32), key, shape
    )
    return bits.astype(jnp.uint32) >> 9


def from_lattice(number: Array) -> Array:
    """Maps to floats, `(number + 1/2) / LATTICE` in float32: never 0 or 1.

    Args:
      number: of `lattice`, any shape.
    """
    return (number.astype(jnp.float32) + 0.5) / LATTICE


def uniform(key: Array, shape: tuple[int, ...]) -> Array:
    """Samples uniform numbers in the *open* interval (0, 1), float32.

    Args:
      key: scalar, or `[*batch]` where `shape` is `[*batch, *event]`.
      shape: of the result.
    """
    return from_lattice(lattice(key, shape))


def check_key(key: Array) -> None:
    """Raises a `ValueError` where `key` is untyped, or batched and not threefry.

    Args:
      key: of any shape.
    """
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


def _per_example(
    draw: Callable[[Array, tuple[int, ...]], Array], key: Array, shape: tuple[int, ...]
) -> Array:
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
    """Independent normal noise for every step of a sampler."""

    def draw(self, key: Array, step: ArrayLike, num_noises: int, z: Array) -> Array:
        """Draws the noise of step number `step`.

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
    """Recorded noise: step number `step` uses `values[step]`.

    Args:
      values: `[num_steps, num_noises, *batch, *event]`.
    """

    values: Array

    @property
    def num_steps(self) -> int:
        """Number of steps that there is noise for."""
        return np.shape(self.values)[0]

    def draw(self, key: Array, step: ArrayLike, num_noises: int, z: Array) -> Array:
        """Returns the recorded noise of step number `step`; `key` is not used."""
        del key
        if np.shape(self.values)[1:] != (num_noises, *z.shape):
            raise ValueError(
                f"recorded noise has shape {np.shape(self.values)}: must be "
                f"[num_steps, {num_noises}, *{z.shape}]"
            )
        return jnp.asarray(self.values, z.dtype)[step]


def check_steps(source: Any, num_steps: int) -> None:
    """Raises a `ValueError` where a source has noise for another number of steps.

    Args:
      source: of noise; one without `num_steps` has noise for any number.
      num_steps: of the run.
    """
    available = getattr(source, "num_steps", num_steps)
    if available != num_steps:
        raise ValueError(
            f"{type(source).__name__} has noise for {available} steps: must be "
            f"{num_steps}, the steps that draw from it"
        )


DEPTH = 30  # levels of the tree of `Brownian`; its lattice has 2^DEPTH cells


@register
class Brownian:
    """Noise as increments of one Brownian path, whatever the number of steps.

    Step i uses `(W(clock_i) - W(clock_(i + 1))) / sqrt(clock_i - clock_(i + 1))`, with
    one path W per key, draw of a step, and coordinate. Grids share the path, so that
    samples made with 10 and with 1000 steps are paired: where two clocks meet, sums of
    their increments agree. Each draw is exactly standard normal, and those of one run
    are independent.

    W is the sum of the hat functions of Schauder on [low, high], each times a normal
    draw whose key is that of its place. Memory does not depend on the depth; a draw
    costs `2 DEPTH` normal ones. Times are rounded to the lattice of 2^-DEPTH: in
    float64 where they are concrete as this is made, else in their own type, whose
    rounding may make steps of length 0, and their draws NaN.

    Args:
      clock: times or other falling levels of the steps, `[num_steps + 1]`, such as the
        grid itself. Runs of one key, `low` and `high` share the path.
      low: lower end of the path.
      high: upper end of the path.
      cells: of the lattice, `[num_steps + 1]`, computed from the others where they are
        concrete; leave it out.

    Raises:
      ValueError: `clock` is not inside [low, high], or does not fall by more than the
        lattice resolves.
    """

    clock: Array
    low: float = 0.0
    high: float = 1.0
    cells: Any = None  # data, so that float64 places go through `jit` in float32

    def __post_init__(self) -> None:
        if is_traced(self.clock, self.low, self.high) or not _numeric(self.clock):
            return
        clock = np.asarray(self.clock, np.float64)
        if clock.ndim != 1 or clock.min() < self.low or clock.max() > self.high:
            raise ValueError(
                f"clock={clock}: must be [num_steps + 1] values in [{self.low!r}, "
                f"{self.high!r}]; low and high are the ends of the path"
            )
        cells = _cells(clock, self.low, self.high, np)
        if (np.diff(cells) >= 0).any():
            raise ValueError(
                f"clock={clock}: must fall, by {2.0**-DEPTH:.1e} of the path at least"
            )
        object.__setattr__(self, "cells", cells)

    @property
    def num_steps(self) -> int:
        """Number of steps that there is noise for."""
        return len(self.clock) - 1

    def draw(self, key: Array, step: ArrayLike, num_noises: int, z: Array) -> Array:
        """Draws increments of step number `step`, each of an independent path."""
        if self.cells is None:
            places = _cells(jnp.asarray(self.clock), self.low, self.high, jnp)
        else:
            places = jnp.asarray(self.cells)
        late, early = places[step], places[step + 1]
        keys = split(key, num_noises)
        return jnp.stack([_increment(key, early, late, z) for key in keys])


def _cells(clock: Any, low: Any, high: Any, xp: Any) -> Any:
    """Converts the clock to cells of the lattice."""
    return xp.round((clock - low) / (high - low) * 2**DEPTH).astype(xp.int32)


def _increment(key: Array, early: Array, late: Array, z: Array) -> Array:
    """Computes `(W(late) - W(early)) / sqrt(late - early)`, with times in cells.

    Where both times are under one hat, the difference of its values is that of two
    integers: nothing cancels.
    """
    length = (late - early).astype(z.dtype)

    def add(level: Array, total: Array) -> Array:
        width = jnp.int32(2**DEPTH) >> level
        node = lambda place: jnp.minimum(place // width, (1 << level) - 1)
        height = lambda place: jnp.minimum(
            place - node(place) * width, (node(place) + 1) * width - place
        )
        draw = lambda place: normal(
            fold_in(fold_in(key, level), node(place)), z.shape, z.dtype
        )
        same = node(early) == node(late)
        scale = 1 / jnp.sqrt(length * width.astype(z.dtype))
        up = jnp.where(same, height(late) - height(early), height(late))
        down = jnp.where(same, 0, height(early))
        up, down = (scale * part.astype(z.dtype) for part in (up, down))
        return total + up * draw(late) - down * draw(early)

    slope = jnp.sqrt(length / 2**DEPTH)
    start = slope * normal(fold_in(key, DEPTH), z.shape, z.dtype)
    return jax.lax.fori_loop(jnp.int32(0), jnp.int32(DEPTH), add, start)


def _numeric(value: Any) -> bool:
    """Returns whether `value` holds numbers: rebuilt pytrees may hold placeholders."""
    return isinstance(value, (list, tuple, np.ndarray, Array))
