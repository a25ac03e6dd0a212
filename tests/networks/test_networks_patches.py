"""Patches of sequences, images and videos: their order, their inverse, their sizes."""

import jax.numpy as jnp
import numpy as np
import pytest

from diffusionflow.networks import DiT, patches

CASES = [
    ((12,), 3, (3,)),
    ((6, 12), 2, (2, 2)),
    ((6, 12), (3, 4), (3, 4)),
    ((4, 6, 8), 2, (2, 2, 2)),
    ((4, 6, 8), (1, 3, 2), (1, 3, 2)),
]


def numbered(sizes):
    shape = (2, *sizes, 3)
    return jnp.arange(np.prod(shape), dtype=jnp.float32).reshape(shape)


@pytest.mark.parametrize(("sizes", "size", "sides"), CASES)
def test_patches_are_slices_in_the_order_of_the_grid_and_come_back(sizes, size, sides):
    x = numbered(sizes)
    tokens = patches.patchify(x, size)
    grid = [whole // side for whole, side in zip(sizes, sides, strict=True)]
    assert tokens.shape == (2, np.prod(grid), 3 * np.prod(sides))
    for token, place in zip(tokens[1], np.ndindex(*grid), strict=True):
        pairs = zip(place, sides, strict=True)
        cut = tuple(slice(i * side, (i + 1) * side) for i, side in pairs)
        np.testing.assert_array_equal(token, x[1][cut].ravel())
    np.testing.assert_array_equal(patches.unpatchify(tokens, size, *sizes), x)


def test_an_axis_of_one_pixel_changes_nothing():
    x = numbered((4, 6))
    tokens = patches.patchify(x, (2, 3))
    for axis, size in ((1, (1, 2, 3)), (2, (2, 1, 3)), (3, (2, 3, 1))):
        longer = jnp.expand_dims(x, axis)
        np.testing.assert_array_equal(patches.patchify(longer, size), tokens)


@pytest.mark.parametrize("size", [0, (2, 0), (), (1, 1, 1, 1), 2.0, "2", (2, -1)])
def test_sizes_of_no_patch_are_refused(size):
    with pytest.raises(ValueError, match="patch_size=.*: must be a whole number"):
        DiT(patch_size=size)


@pytest.mark.parametrize(
    ("sizes", "size", "words"),
    [
        ((9,), 2, "data of 9 pixels: .* multiples of patch_size=2: crop or pad"),
        ((4, 6), (4, 4), r"of 4 x 6 pixels: .* multiples of patch_size=\(4, 4\)"),
        ((3, 4, 4), 2, "data of 3 x 4 x 4 pixels"),
        ((4, 4), (1, 2, 2), r"patch_size=\(1, 2, 2\) for data of 2 dimensions: give"),
    ],
)
def test_data_that_patches_do_not_fit_are_refused(sizes, size, words):
    with pytest.raises(ValueError, match=words):
        patches.patchify(numbered(sizes), size)
