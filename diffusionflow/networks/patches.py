"""Patches: data of one to three dimensions cut into tokens and put together again."""

import math
from collections.abc import Sequence

import jax

PatchSize = int | tuple[int, ...]


def check_patch_size(size: PatchSize) -> None:
    """Raises ValueError unless `size` is a whole number from 1 or up to three of them.

    Whether they fit the data is checked by `patch_sides`.
    """
    sides = size if isinstance(size, (tuple, list)) else (size,)
    whole = all(isinstance(side, int) and side >= 1 for side in sides)
    if not 1 <= len(sides) <= 3 or not whole:
        raise ValueError(
            f"patch_size={size!r}: must be a whole number, at least 1, or one for each "
            "of one to three dimensions"
        )


def patch_sides(size: PatchSize, sizes: Sequence[int]) -> tuple[int, ...]:
    """Computes the sides of a patch, one for each dimension of the data.

    Args:
      size: of a patch in all dimensions, or one number for each.
      sizes: of the data, without batch and channels.

    Raises:
      ValueError: there are more or fewer numbers than dimensions, or a side does not
        divide the size of the data.
    """
    sides = (size,) * len(sizes) if isinstance(size, int) else tuple(size)
    if len(sides) != len(sizes):
        raise ValueError(
            f"patch_size={size} for data of {len(sizes)} dimensions: give one number "
            "for all, or one for each"
        )
    if any(whole % side for whole, side in zip(sizes, sides, strict=True)):
        raise ValueError(
            f"data of {' x '.join(map(str, sizes))} pixels: patches need sizes that "
            f"are multiples of patch_size={size}: crop or pad the data, or choose "
            "another patch_size"
        )
    return sides


def patchify(x: jax.Array, size: PatchSize) -> jax.Array:
    """Cuts sequences, images or videos into patches, in the order of their axes.

    Images are cut into squares (or rectangles), row by row.

    Args:
      x: [batch, *sizes, channels].
      size: side of a patch, or one for each dimension; the sides divide `sizes`.

    Returns:
      [batch, prod(sizes / sides), prod(sides) * channels].

    Raises:
      ValueError: see `patch_sides`.
    """
    batch, *sizes, channels = x.shape
    sides = patch_sides(size, sizes)
    grid = [whole // side for whole, side in zip(sizes, sides, strict=True)]
    pairs = [part for pair in zip(grid, sides, strict=True) for part in pair]
    places, inside = range(1, 2 * len(sizes), 2), range(2, 2 * len(sizes) + 1, 2)
    order = (0, *places, *inside, 2 * len(sizes) + 1)
    x = x.reshape(batch, *pairs, channels).transpose(order)
    return x.reshape(batch, math.prod(grid), math.prod(sides) * channels)


def unpatchify(tokens: jax.Array, size: PatchSize, *sizes: int) -> jax.Array:
    """Inverts `patchify`.

    Args:
      tokens: [batch, prod(sizes / sides), prod(sides) * channels].
      size: side of a patch, or one for each dimension.
      *sizes: of the data, without batch and channels.

    Returns:
      [batch, *sizes, channels].

    Raises:
      ValueError: see `patch_sides`.
    """
    sides = patch_sides(size, sizes)
    grid = [whole // side for whole, side in zip(sizes, sides, strict=True)]
    x = tokens.reshape(tokens.shape[0], *grid, *sides, -1)
    count = len(sizes)
    pairs = [axis for i in range(count) for axis in (1 + i, 1 + count + i)]
    return x.transpose(0, *pairs, 2 * count + 1).reshape(len(tokens), *sizes, -1)
