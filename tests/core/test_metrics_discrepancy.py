"""Squared MMD, KID and energy distance."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.spatial
import scipy.stats
from sklearn.metrics import pairwise

from diffusionflow import metrics
from diffusionflow.metrics import RBF, Polynomial, SquaredMMD, discrepancy, kernels
from tests.helpers import oracles

RNG = np.random.RandomState(0)
X, Y = RNG.standard_normal((9, 4)), 0.5 + RNG.standard_normal((7, 4))

KERNELS = {
    "kid": (Polynomial(), lambda x, y: pairwise.polynomial_kernel(x, y, degree=3)),
    "polynomial": (
        Polynomial(2, 0.3, 0.7),
        lambda x, y: pairwise.polynomial_kernel(x, y, degree=2, gamma=0.3, coef0=0.7),
    ),
    "rbf": (RBF(1.5), lambda x, y: pairwise.rbf_kernel(x, y, gamma=1 / (2 * 1.5**2))),
    "distance": (
        metrics.NegativeDistance(),
        lambda x, y: -pairwise.euclidean_distances(x, y),
    ),
    "laplacian": (pairwise.laplacian_kernel, pairwise.laplacian_kernel),
}


def off_diagonal_mean(matrix):
    n = len(matrix)
    return (matrix.sum() - np.trace(matrix)) / (n * (n - 1))


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("unbiased", [True, False])
def test_against_the_kernels_of_scikit_learn(name, unbiased):
    kernel, matrix_fn = KERNELS[name]
    within = off_diagonal_mean if unbiased else np.mean
    exact = within(matrix_fn(X, X)) + within(matrix_fn(Y, Y))
    exact -= 2 * matrix_fn(X, Y).mean()
    found = SquaredMMD(kernel, unbiased)(X, Y)
    np.testing.assert_allclose(found, exact, rtol=1e-7, atol=1e-7)


def test_energy_distance_against_scipy():
    x, y = RNG.standard_normal(30), 1 + 2 * RNG.standard_normal(20)
    exact = scipy.stats.energy_distance(x, y) ** 2
    np.testing.assert_allclose(metrics.energy(unbiased=False)(x, y), exact, rtol=1e-10)


def test_rows_are_taken_in_blocks(monkeypatch):
    weights = tuple(RNG.randint(0, 3, (5, len(part))) for part in (X, Y))
    whole = metrics.kid().values((X, Y), weights)
    monkeypatch.setattr(discrepancy, "BLOCK", 2)
    np.testing.assert_allclose(metrics.kid().values((X, Y), weights), whole, rtol=1e-10)


@pytest.mark.parametrize("offset", [np.zeros(3), np.array([0.6, 0.0, -0.3])])
def test_unbiased_for_gaussians_with_their_closed_form(offset):
    count, n, m, h = 1500, 8, 6, 1.2
    rng = np.random.RandomState(1)
    x = rng.standard_normal((count, n, 3))
    y = offset + np.sqrt(1.5 if offset.any() else 1) * rng.standard_normal(
        (count, m, 3)
    )
    exact = oracles.exact_mmd(offset, 1.0, 1.5 if offset.any() else 1.0, h)
    found = np.array([SquaredMMD(RBF(h))(*pair) for pair in zip(x, y, strict=True)])
    error = found.std() / np.sqrt(count)
    np.testing.assert_allclose(found.mean(), exact, atol=4 * error)
    biased = np.array(
        [SquaredMMD(RBF(h), False)(*pair) for pair in zip(x, y, strict=True)]
    )
    assert biased.mean() > exact + 10 * error  # the test can tell
    assert biased.min() >= -1e-15


def test_resamples_are_centred_at_the_value():
    """A row drawn twice is no pair: else a resample would be biased by O(1/n)."""
    x, y = RNG.standard_normal((2, 25, 2))
    metric = SquaredMMD(RBF(0.3))
    counts = tuple(
        np.random.RandomState(seed).multinomial(25, [1 / 25] * 25, 4000)
        for seed in (1, 2)
    )
    found = metric.values((x, y), counts)
    error = found.std() / np.sqrt(len(found))
    np.testing.assert_allclose(found.mean(), metric(x, y), atol=5 * error)
    assert error < 0.2 * 2 / 25 / 5  # the bias there would be


def test_traced_it_is_a_loss():
    x, y = (part.astype(np.float32) for part in (X, Y))
    for metric in (metrics.kid(), metrics.energy(), SquaredMMD(RBF(1.5))):
        fn = lambda shift, metric=metric: metric(x + shift, y)
        value, slope = jax.jit(jax.value_and_grad(fn))(jnp.float32(0.2))
        np.testing.assert_allclose(value, fn(np.float32(0.2)), rtol=1e-4, atol=1e-6)
        high, low = (fn(np.float64(0.2 + step)) for step in (1e-4, -1e-4))
        np.testing.assert_allclose(slope, (high - low) / 2e-4, rtol=1e-3, atol=1e-5)


def test_wrong_values_are_refused():
    with pytest.raises(ValueError, match="bandwidth=0"):
        RBF(0)
    with pytest.raises(ValueError, match=r"degree=1.5"):
        Polynomial(1.5)
    with pytest.raises(ValueError, match="needs 2 of each"):
        metrics.kid()(X[:1], Y)


def test_distances_of_many_features_are_those_of_differences():
    """Of rows that are far from 0 and of some that are nearly or quite the same."""
    x = 1e3 + np.random.RandomState(0).standard_normal((40, 50))
    y = np.concatenate([x[:9], x[9:20] + 1e-7, x[20:] + 1.0])
    expected = scipy.spatial.distance.cdist(x, y, "sqeuclidean")
    np.testing.assert_allclose(kernels.squared_distances(x, y), expected, rtol=1e-10)
