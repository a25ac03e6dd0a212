"""Sliced and exact 2-Wasserstein distances."""

import jax
import jax.numpy as jnp
import numpy as np
import ot
import pytest
import scipy.special

from diffusionflow.metrics import SlicedWasserstein2, Wasserstein2
from diffusionflow.metrics.wasserstein import squared_quantile_distance

RNG = np.random.RandomState(0)
KEY = jax.random.key(3)


@pytest.mark.parametrize(("n", "m"), [(1, 1), (7, 7), (6, 9), (50, 1), (13, 40)])
def test_on_the_line_against_pot(n, m):
    x, y = np.sort(RNG.standard_normal(n)), np.sort(1 + RNG.standard_normal(m))
    exact = ot.emd2_1d(x, y, metric="sqeuclidean")
    np.testing.assert_allclose(squared_quantile_distance(x, y), exact, rtol=1e-10)
    np.testing.assert_allclose(SlicedWasserstein2(KEY, 3)(x, y) ** 2, exact, rtol=1e-10)


def test_gaussians_on_the_line():
    """(m - n)^2 + (s - r)^2, with midpoints of equal shares for samples."""
    quantiles = lambda n: scipy.special.ndtri((np.arange(n) + 0.5) / n)
    x, y = 0.3 + 1.2 * quantiles(4000), -0.5 + 0.4 * quantiles(3000)
    exact = np.hypot(0.8, 0.8)
    np.testing.assert_allclose(SlicedWasserstein2(KEY, 1)(x, y), exact, rtol=2e-3)
    few = Wasserstein2()(0.3 + 1.2 * quantiles(500), -0.5 + 0.4 * quantiles(500))
    np.testing.assert_allclose(few, exact, rtol=5e-3)


@pytest.mark.parametrize("m", [30, 45])
def test_sliced_against_pot(m):
    x, y = RNG.standard_normal((30, 5)), 0.5 + RNG.standard_normal((m, 5))
    normal = jax.random.normal(KEY, (64, 5), jnp.float32)
    directions = np.asarray(normal, np.float64).T
    directions /= np.linalg.norm(directions, axis=0)
    exact = ot.sliced_wasserstein_distance(x, y, projections=directions)
    np.testing.assert_allclose(SlicedWasserstein2(KEY, 64)(x, y), exact, rtol=1e-9)


def test_sliced_distance_of_a_shift():
    """`mean (direction . c)^2 = |c|^2 / d`: directions are uniform on the sphere."""
    x, c = RNG.standard_normal((20, 6)), np.arange(6.0)
    found = SlicedWasserstein2(KEY, 20_000)(x, x + c)
    np.testing.assert_allclose(found**2, c @ c / 6, rtol=0.02)


@pytest.mark.parametrize("n", [1, 2, 40])
def test_exact_against_pot(n):
    x, y = RNG.standard_normal((n, 3)), 0.5 + RNG.standard_normal((n, 3))
    uniform = np.full(n, 1 / n)
    exact = ot.emd2(uniform, uniform, ot.dist(x, y))
    np.testing.assert_allclose(Wasserstein2()(x, y), np.sqrt(exact), rtol=1e-9)


def test_exact_distance_of_a_shift_and_of_a_permutation():
    x, c = RNG.standard_normal((30, 4)), np.array([1.0, -2, 0, 2])
    np.testing.assert_allclose(Wasserstein2()(x, x[::-1] + c), 3)
    assert Wasserstein2()(x, RNG.permutation(x)) == 0


def test_traced_it_is_a_loss():
    x = RNG.standard_normal((12, 3)).astype(np.float32)
    y = RNG.standard_normal((8, 3)).astype(np.float32)
    metric = SlicedWasserstein2(KEY, 16)
    fn = lambda shift: metric(x + shift, y)
    value, slope = jax.jit(jax.value_and_grad(fn))(jnp.float32(0.2))
    np.testing.assert_allclose(value, fn(np.float32(0.2)), rtol=1e-5)
    high, low = (fn(np.float64(0.2 + step)) for step in (1e-5, -1e-5))
    np.testing.assert_allclose(slope, (high - low) / 2e-5, rtol=1e-3)


def test_wrong_values_are_refused():
    with pytest.raises(ValueError, match="must be equally large"):
        Wasserstein2()(np.ones((3, 2)), np.ones((4, 2)))
    with pytest.raises(ValueError, match="num_projections=0"):
        SlicedWasserstein2(KEY, 0)
