"""Surrogate losses of distribution matching: their gradients on Gaussians.

A generator `g eps` against data N(0, v) at one level (alpha, sigma): everything is
known, and means over (eps, xi) are sums over a grid of Gauss-Hermite nodes.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusionflow import analytic, distillation, metrics
from tests.helpers import fewstep

GIVEN = fewstep.inputs("distribution_matching/dmd_gradient")
G, V, ALPHA, SIGMA = (GIVEN[key] for key in ("g", "v", "alpha", "sigma"))
WEIGHT = (ALPHA / SIGMA) ** 2
in_float64 = functools.partial(jax.enable_x64, True)


def hermite(count):
    """Draws and weights of the mean over N(0, 1)."""
    nodes, mass = np.polynomial.hermite_e.hermegauss(count)
    return nodes, mass / mass.sum()


def denoised(z, v, alpha=ALPHA, sigma=SIGMA):
    return analytic.gaussian(np.zeros(1), v).denoised(z, alpha, sigma).x


def gradient(kind, count, **settings):
    """d/dg of the mean loss, with the fake network frozen at `G`."""
    nodes, mass = hermite(count)
    eps, xi = (part.ravel()[:, None] for part in np.meshgrid(nodes, nodes))
    weights = np.outer(mass, mass).ravel()

    def loss(g):
        x = g * eps
        z = ALPHA * x + SIGMA * xi
        both = dict(settings)
        if kind not in ("dmd", "sid", "reverse_kl"):
            ratio = lambda v: ALPHA**2 * v + SIGMA**2
            real, fake = ratio(V), ratio(G**2)
            log_ratio = (z**2 / fake - z**2 / real) / 2 + np.log(fake / real) / 2
            both["ratio"] = jnp.exp(log_ratio[:, 0])
        losses = distillation.matching_loss(
            x, denoised(z, V), denoised(z, G**2), kind=kind, **both
        )
        return jnp.sum(weights * losses)

    return float(jax.grad(loss)(jnp.asarray(G)))


@pytest.mark.parametrize("kind", ["dmd", "reverse_kl"])
def test_the_gradient_is_that_of_the_divergence_of_both_laws(kind):
    with in_float64():
        found = gradient(kind, 2, weight=WEIGHT)
        kl = lambda g: _kl(ALPHA**2 * g**2 + SIGMA**2, ALPHA**2 * V + SIGMA**2)
        exact = jax.grad(kl)(G)
    expected = fewstep.value("distribution_matching/dmd_gradient")
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    np.testing.assert_allclose(exact, expected, rtol=1e-12)


def _kl(q, p):
    return (q / p - 1 - jnp.log(q / p)) / 2


@pytest.mark.parametrize("kind", distillation.DIVERGENCES)
def test_gradients_of_divergences(kind):
    expected = fewstep.value("distribution_matching/f_distill_gradient")
    with in_float64():
        found = gradient(kind, 60, weight=WEIGHT)
    np.testing.assert_allclose(found, expected[kind], rtol=1e-8)


@pytest.mark.ci
def test_score_identity_distillation():
    """alpha = 1/2 is half the gradient of the Fisher divergence; 1 and 1.2 are not."""
    expected = fewstep.value("distribution_matching/sid_gradient")
    with in_float64():
        for alpha in (0.5, 1.0, 1.2):
            found = gradient("sid", 3, alpha=alpha)
            name = f"alpha_{alpha:g}"
            np.testing.assert_allclose(found, expected[name], rtol=1e-12)
        gap = lambda v: ALPHA * v / (ALPHA**2 * v + SIGMA**2)
        fisher = lambda g: (gap(V) - gap(g**2)) ** 2 * (ALPHA**2 * g**2 + SIGMA**2)
        exact = jax.grad(fisher)(G)
    np.testing.assert_allclose(exact, expected["exact"], rtol=1e-12)
    half = expected["exact"] / 2
    np.testing.assert_allclose(expected["alpha_0.5"], half, rtol=1e-12)
    shares = [expected[f"alpha_{alpha}"] / half for alpha in ("1", "1.2")]
    np.testing.assert_allclose(shares, [0.907, 0.870], atol=5e-4)


def test_drifting_is_matching_at_one_level_without_noise():
    """Of a Gaussian kernel of width l: the field is `x_real - x_fake` at sigma = l."""
    expected = fewstep.value("distribution_matching/drift_gaussian_kernel")
    with in_float64():
        x = jnp.array([[0.8]])
        real, fake = (denoised(x, v, 1.0, 0.7) for v in (0.37, 0.6))
        slope = jax.grad(
            lambda x: distillation.matching_loss(x, real, fake, weight=1.0).sum()
        )(x)
        np.testing.assert_allclose(-slope, [[expected]], rtol=1e-12)
        # and by its definition, E_p[k (y - x)] / E_p[k] less the same under q
        nodes, mass = hermite(80)

        def mean_shift(v):
            y = np.sqrt(v) * nodes
            kernel = mass * np.exp(-((y - 0.8) ** 2) / (2 * 0.7**2))
            return np.sum(kernel * (y - 0.8)) / np.sum(kernel)

        np.testing.assert_allclose(
            mean_shift(0.37) - mean_shift(0.6), expected, rtol=1e-8
        )


def test_the_distance_of_moment_matching_has_a_floor():
    """The V-statistic of 4 against 4 draws of one law is not 0."""
    expected = fewstep.value("distribution_matching/mmd2_gaussians")
    nodes, mass = hermite(80)
    p, q = (np.sqrt(v) * nodes[:, None] for v in (0.37, 0.6))
    metric = metrics.SquaredMMD(metrics.kernels.RBF(0.7), unbiased=False)
    found = metric.values((p, q), (mass[None], mass[None]))
    np.testing.assert_allclose(found, [expected["mmd2"]], rtol=1e-9)
    kernel = metric.kernel(p, p)
    floor = 2 / 4 * (1 - mass @ kernel @ mass)
    np.testing.assert_allclose(floor, expected["v_statistic_4"], rtol=1e-9)
    draws = np.sqrt(0.37) * np.random.default_rng(0).normal(size=(2, 3000, 4, 1))
    one = np.ones((1, 4), int)
    values = [metric.values(pair, (one, one))[0] for pair in zip(*draws, strict=True)]
    error = 4 * np.std(values) / np.sqrt(3000)
    assert abs(np.mean(values) - expected["v_statistic_4"]) < error


# ---- definitions and errors


def arrays():
    return np.random.default_rng(1).normal(size=(3, 4, 5, 2)).astype(np.float32)


def test_the_weight_of_dmd_is_of_each_example_and_a_constant():
    x, real, fake = map(jnp.asarray, arrays())
    slope = jax.grad(lambda x: distillation.matching_loss(x, real, fake).sum())(x)
    mean = jnp.mean(jnp.abs(x - real), axis=(1, 2), keepdims=True)
    np.testing.assert_allclose(slope, (fake - real) / mean / 10, rtol=1e-4, atol=1e-7)
    for part in (1, 2):  # nothing flows into the networks
        found = jax.grad(
            lambda *given: distillation.matching_loss(*given).sum(), argnums=part
        )(x, real, fake)
        np.testing.assert_array_equal(found, 0)
    same = distillation.matching_loss(real, real, fake)
    assert np.isfinite(same).all()


def test_losses_are_per_example():
    x, real, fake = map(jnp.asarray, arrays())
    weight = jnp.array([1.0, 2.0, 0.0, 1.0])
    for kind in ("dmd", "sid", "jeffreys"):
        call = functools.partial(distillation.matching_loss, kind=kind)
        ratio = {"ratio": 0.5} if kind == "jeffreys" else {}
        every = {name: jnp.full(4, value) for name, value in ratio.items()}
        whole = call(x, real, fake, weight=weight, **every)
        assert whole.shape == (4,) and whole[2] == 0
        one = call(x[1], real[1], fake[1], weight=2.0, batch_ndim=0, **ratio)
        np.testing.assert_allclose(one, whole[1], rtol=1e-6)


def test_bad_arguments():
    x, real, fake = map(jnp.asarray, arrays())
    with pytest.raises(ValueError, match=r"unknown kind 'kl'.*reverse_kl"):
        distillation.matching_loss(x, real, fake, kind="kl")
    with pytest.raises(ValueError, match="ratio=None"):
        distillation.matching_loss(x, real, fake, kind="js")
    with pytest.raises(ValueError, match="shape"):
        distillation.matching_loss(x, real[:2], fake)


# ---- all vectors


def test_every_vector_is_tested():
    """The entries that the files of tests name are all that there are."""
    named = set()
    for path in sorted((fewstep.TESTS / "core").glob("test_*.py")):
        named |= fewstep.named_in(path.read_text())
    couplings = set(fewstep.names("couplings/*"))
    assert len(fewstep.names("*")) == 117
    assert named | couplings == set(fewstep.names("*"))
