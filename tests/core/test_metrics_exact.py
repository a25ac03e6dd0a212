"""Errors against laws and solutions that are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from diffusionflow import analytic, metrics

RNG = np.random.RandomState(0)
LAW = analytic.Mixture(
    np.array([1.0, 3.0]),  # they are normalised
    np.array([[[0.0, 1.0]], [[2.0, -1.0]]]),
    np.array([[[1.0, 0.5]], [[0.25, 2.0]]]),
)


def test_moments_of_a_mixture():
    mean, covariance = metrics.law_moments(LAW)
    np.testing.assert_allclose(mean, [1.5, -0.5])
    # E[x x^T] - m m^T, written out
    second = np.array([[0.25 * 1 + 0.75 * (0.25 + 4), 0.75 * -2], [0.75 * -2, 0]])
    second[1, 1] = 0.25 * (0.5 + 1) + 0.75 * (2 + 1)
    np.testing.assert_allclose(covariance, second - np.outer(mean, mean))


def test_errors_of_moments():
    mean, covariance = metrics.law_moments(LAW)
    x = RNG.standard_normal((50, 1, 2))
    flat = x[:, 0]
    np.testing.assert_allclose(
        metrics.MeanError(mean)(x), np.linalg.norm(flat.mean(0) - mean)
    )
    np.testing.assert_allclose(
        metrics.CovarianceError(covariance)(x),
        np.linalg.norm(np.cov(flat.T) - covariance),
    )


def test_samples_of_the_law_have_small_errors():
    mean, covariance = metrics.law_moments(LAW)
    x = LAW.sample(jax.random.key(0), (20_000,))
    typical = np.sqrt(np.trace(covariance) / 20_000)
    assert metrics.MeanError(mean)(x) < 3 * typical
    assert metrics.MeanError(mean)(x + 0.1) > 5 * typical
    assert metrics.Frechet(metrics.law_moments(LAW))(x) < 1e-3


def test_kolmogorov_against_scipy():
    law = analytic.Mixture(np.array([0.4, 0.6]), np.array([-1.0, 2.0]), np.ones(2) / 4)
    cdf = metrics.LawCDF(law)
    at = np.linspace(-4, 4, 9)
    exact = 0.4 * scipy.stats.norm.cdf(at, -1, 0.5)
    exact += 0.6 * scipy.stats.norm.cdf(at, 2, 0.5)
    np.testing.assert_allclose(cdf(at), exact, rtol=1e-7)
    for x in (RNG.standard_normal(40), np.round(RNG.standard_normal(40), 1)):
        found = metrics.Kolmogorov(cdf)(x)
        np.testing.assert_allclose(found, scipy.stats.kstest(x, cdf).statistic)


def test_kolmogorov_of_counted_rows():
    x, count = RNG.standard_normal(30), RNG.multinomial(30, [1 / 30] * 30, 5)
    metric = metrics.Kolmogorov(scipy.stats.norm.cdf)
    found = metric.values((x[:, None],), (count,))
    exact = [scipy.stats.kstest(np.repeat(x, c), "norm").statistic for c in count]
    np.testing.assert_allclose(found, exact)


def test_error_along_pairs():
    x, y = RNG.standard_normal((2, 10, 3, 2))
    exact = np.sqrt(np.mean((x - y) ** 2))
    np.testing.assert_allclose(metrics.RMSError()(x, y), exact)
    x, y = (part.astype(np.float32) for part in (x, y))
    found = jax.jit(metrics.RMSError())(x, y)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, exact, rtol=1e-6)


def test_wrong_shapes_are_refused():
    with pytest.raises(ValueError, match="must be one"):
        metrics.LawCDF(LAW)(np.zeros(3))
    with pytest.raises(ValueError, match="must be positive"):
        metrics.LawCDF(analytic.gaussian(np.zeros(1), 0.0))(np.zeros(3))
    with pytest.raises(ValueError, match=r"rows of 2 numbers"):
        metrics.Kolmogorov(scipy.stats.norm.cdf)(np.zeros((4, 2)))
    with pytest.raises(ValueError, match="compares row i with row i"):
        metrics.RMSError()(np.zeros((1, 2)), np.zeros((4, 2)))
    with pytest.raises(ValueError, match="2 sets"):
        metrics.Mean()(np.zeros(3), np.zeros(3))
