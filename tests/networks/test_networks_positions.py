"""Positions in one to three dimensions: closed forms, and RoPE's relativity."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusionflow.networks import positions

GRIDS = [(5,), (3, 4), (2, 3, 4)]


@pytest.mark.parametrize("sizes", GRIDS)
def test_places_are_the_coordinates_in_row_major_order(sizes):
    expected = np.array(list(np.ndindex(*sizes)))
    np.testing.assert_array_equal(positions.places(*sizes), expected)


def test_sinusoids_of_a_sequence_are_those_of_the_paper():
    """Of arXiv:1706.03762, 3.5, with sines and cosines apart instead of in turns."""
    table = positions.sinusoids(positions.places(9), 8)
    for place, row in enumerate(table):
        turned = place / 10_000 ** (2 * np.arange(4) / 8)
        sines, cosines = np.sin(turned), np.cos(turned)
        np.testing.assert_allclose(row, [*sines, *cosines], atol=1e-6)


@pytest.mark.parametrize("sizes", GRIDS)
def test_every_axis_has_its_own_sequence_in_an_equal_share(sizes):
    """And so no two places share an embedding, and all have the same norm."""
    axes, places = len(sizes), positions.places(*sizes)
    table = positions.sinusoids(places, 8 * axes)
    parts = table.reshape(len(places), 2, axes, 4)  # sines and cosines, axis, frequency
    line = positions.sinusoids(positions.places(max(sizes)), 8).reshape(-1, 2, 4)
    for axis in range(axes):
        np.testing.assert_allclose(parts[:, :, axis], line[places[:, axis]], atol=1e-6)
    distance = np.linalg.norm(table[:, None] - table[None], axis=-1)
    assert distance[~np.eye(len(places), dtype=bool)].min() > 0.5
    np.testing.assert_allclose((table**2).sum(1), 4 * axes, rtol=1e-5)


def products(query, key, places):
    """Logits [tokens, tokens] of one head."""
    turn = functools.partial(positions.rotate, places=places)
    return jnp.einsum("qf,kf->qk", turn(query)[0, :, 0], turn(key)[0, :, 0])


@pytest.mark.parametrize("sizes", GRIDS)
def test_rotary_products_depend_on_the_difference_of_places_alone(sizes):
    axes, places = len(sizes), positions.places(*sizes)
    shape = (1, len(places), 1, 4 * axes)
    query, key = (jax.random.normal(jax.random.key(i), shape) for i in range(2))
    logits = products(query, key, places)
    moved = products(query, key, places + np.array([5, -3, 2])[:axes])
    np.testing.assert_allclose(moved, logits, rtol=1e-4, atol=1e-4)
    for axis in range(axes):
        stretched = places * (1 + (np.arange(axes) == axis))
        assert np.abs(products(query, key, stretched) - logits).max() > 0.1


@pytest.mark.parametrize("sizes", GRIDS)
def test_rotary_product_of_one_pair_an_axis_in_closed_form(sizes):
    """The sum of the cosines of the differences."""
    axes, places = len(sizes), positions.places(*sizes)
    ones = jnp.ones((1, len(places), 1, 2 * axes)).at[..., axes:].set(0)
    expected = np.cos(places[:, None] - places[None]).sum(-1)
    np.testing.assert_allclose(products(ones, ones, places), expected, atol=1e-5)


@pytest.mark.parametrize(("sizes", "features"), [((5,), 3), ((3, 4), 6), (GRIDS[2], 8)])
def test_features_that_the_axes_cannot_share_are_refused(sizes, features):
    places = positions.places(*sizes)
    words = f"{features} features .*multiple of {2 * len(sizes)}"
    with pytest.raises(ValueError, match=words):
        positions.sinusoids(places, features)
    with pytest.raises(ValueError, match=words):
        positions.rotate(jnp.ones((1, len(places), 1, features)), places)
