"""Data sets, split, transform, batches: `data.py`."""

import collections

import numpy as np
import pytest
from sklearn.datasets import load_digits

from experiments import data
from experiments.data import sklearn_images, toy2d

POINT_SETS = [toy2d.moons, toy2d.checkerboard, toy2d.mixture]


@pytest.mark.parametrize("levels", [2, 3, 16, 17, 200, 255, 256])
def test_quantised_to_float_to_quantised_is_the_identity(levels):
    transform = data.DataTransform(levels)
    stored = np.arange(levels, dtype=np.uint8)
    x = np.asarray(transform.to_float(stored))
    assert x.dtype == np.float32
    np.testing.assert_allclose(x, np.linspace(-1, 1, levels), atol=1e-6)
    back = transform.to_stored(x)
    assert back.dtype == np.uint8
    np.testing.assert_array_equal(back, stored)


def test_only_quantisation_clamps_and_it_can_be_measured():
    transform = data.DataTransform(17)
    x = np.array([-3.0, -1.0, -0.99, 0.06, 1.05, 1.5], np.float32)
    np.testing.assert_array_equal(transform.to_stored(x), [0, 0, 0, 8, 16, 16])
    assert transform.clamped_fraction(x) == pytest.approx(2 / 6)
    assert data.DataTransform(None).to_stored(x).tolist() == x.tolist()
    assert data.DataTransform(None).clamped_fraction(x) == 0


@pytest.mark.parametrize("levels", [0, 1, 257])
def test_impossible_levels_are_refused(levels):
    with pytest.raises(ValueError, match=f"levels={levels}: must be in 2..256"):
        data.DataTransform(levels)


def test_digits():
    digits = sklearn_images.digits()
    assert digits.event_shape == (8, 8, 1)
    assert digits.num_classes == 10
    assert digits.train.values.dtype == np.uint8
    assert (digits.train.values.min(), digits.train.values.max()) == (0, 16)
    assert digits.transform.levels == 17
    assert len(digits.train.labels) + len(digits.test.labels) == 1797


def test_the_split_of_the_digits_is_counted_by_hand():
    bunch = load_digits()
    seen, held_out = collections.Counter(), []
    for image, label in zip(bunch.images, bunch.target, strict=True):
        seen[label] += 1
        if seen[label] % 9 == 0:
            held_out.append((label, image))
    test = sklearn_images.digits().test
    assert test.labels.tolist() == [label for label, _ in held_out]
    np.testing.assert_array_equal(test.values[..., 0], [image for _, image in held_out])


def test_the_split_holds_out_every_ninth_of_each_class():
    labels = np.array([0, 1, 1] * 9)
    sets = data.split(np.arange(27.0)[:, None], labels, levels=None)
    assert sets.test.labels.tolist() == [1, 0, 1]
    assert sets.test.values[:, 0].tolist() == [13, 24, 26]
    together = np.concatenate([sets.train.values, sets.test.values])
    assert sorted(together[:, 0]) == list(range(27))


@pytest.mark.parametrize("make", POINT_SETS)
def test_point_sets_are_standardised_seeded_and_of_any_size(make):
    points = make(size=9000, seed=1)
    again = make(size=9000, seed=1)
    other = make(size=9000, seed=2)
    np.testing.assert_array_equal(points.train.values, again.train.values)
    assert not np.array_equal(points.train.values, other.train.values)
    assert points.event_shape == (2,)
    assert points.train.values.dtype == np.float32
    assert len(make(size=123).train.labels) + len(make(size=123).test.labels) == 123
    every = np.concatenate([points.train.values, points.test.values])
    np.testing.assert_allclose(every.mean(0), 0, atol=0.05)  # 5 standard errors
    np.testing.assert_allclose((every**2).mean(), 1, atol=0.03)
    assert sorted(set(points.test.labels)) == list(range(points.num_classes))


def test_the_checkerboard_lies_on_squares_of_one_colour():
    points = toy2d.checkerboard(size=5000).train
    cell = np.floor((points.values / np.sqrt(3) + 1) * 2).astype(int)
    assert np.all((cell >= 0) & (cell <= 3))
    assert np.all(cell.sum(1) % 2 == 0)
    assert len({(tuple(c), k) for c, k in zip(cell, points.labels, strict=True)}) == 8


def test_the_mixture_has_its_means_and_deviation():
    points = toy2d.mixture(size=80_000, num_modes=4, std=0.2).train
    means = toy2d.mixture_means(num_modes=4, std=0.2)
    for label in range(4):
        mine = points.values[points.labels == label]
        error = 0.2 / np.sqrt(len(mine))
        np.testing.assert_allclose(mine.mean(0), means[label], atol=5 * error)
        np.testing.assert_allclose(mine.std(0), 0.2, atol=5 * error)


def test_impossible_point_sets_are_refused():
    with pytest.raises(ValueError, match="size=10 .* at least 18"):
        toy2d.moons(size=10)
    with pytest.raises(ValueError, match="std=1.0"):
        toy2d.mixture(std=1.0)
    with pytest.raises(ValueError, match="num_modes=2"):
        toy2d.mixture(num_modes=2)


@pytest.mark.parametrize("make", POINT_SETS)
@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"size": 10**12}, "size=1000000000000: must be at most 10000000"),
        ({"size": 10_000_001}, "must be at most 10000000"),
        ({"seed": -1}, "seed=-1: must be in 0..4294967295"),
        ({"seed": 2**32}, "seed=4294967296: must be in"),
    ],
)
def test_point_sets_without_bounds_are_refused_at_once(make, section, said):
    with pytest.raises(ValueError, match=said):
        make(**section)


@pytest.mark.parametrize("noise", [-0.1, float("nan"), float("inf"), 1e200])
def test_impossible_noise_is_refused(noise):
    with pytest.raises(ValueError, match="noise=.*: must be in 0..1000"):
        toy2d.moons(noise=noise)


@pytest.mark.parametrize("num_modes", [10**6, 10**12])
def test_too_many_modes_are_refused_at_once(num_modes):
    with pytest.raises(ValueError, match="size=20000 leaves a class without"):
        toy2d.mixture(num_modes=num_modes)
    with pytest.raises(ValueError, match="must be at most 10000000"):
        toy2d.mixture(num_modes=num_modes * 10, size=num_modes * 90)


@pytest.mark.parametrize("stride", [0, 561, 10**30])
def test_impossible_strides_are_refused(stride):
    with pytest.raises(ValueError, match=f"stride={stride}: must be in 1..560"):
        sklearn_images.patches(stride=stride)
