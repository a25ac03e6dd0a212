import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusionflow import analytic, schedules
from tests.helpers import oracles

GMM = oracles.VECTORS["gmm"]


def table():
    number = lambda name: np.array([float(value) for value in GMM[name]])
    mixture = analytic.Mixture(number("pi"), number("mu"), number("var"))
    rows = {k: np.array([float(row[k]) for row in GMM["rows"]]) for k in GMM["rows"][0]}
    return mixture, rows


@pytest.mark.pinned
def test_mixture_against_20_digits():
    mixture, rows = table()
    with jax.enable_x64(True):
        levels = (rows["z"], rows["alpha"], rows["sigma"])
        denoised = mixture.denoised(*levels)
        np.testing.assert_allclose(denoised.x, rows["xhat"], rtol=1e-12)
        np.testing.assert_allclose(mixture.score(*levels), rows["score"], rtol=1e-12)
        np.testing.assert_allclose(
            mixture.log_density(*levels), rows["logp"], rtol=1e-12
        )
        np.testing.assert_allclose(
            denoised.eps, -rows["sigma"] * rows["score"], rtol=1e-12
        )
        # Tweedie's second formula: d x_hat / dz = alpha / sigma^2 Cov(x | z)
        slope = jax.vmap(jax.grad(lambda *level: mixture.denoised(*level).x))(
            *map(jnp.asarray, levels)
        )
        np.testing.assert_allclose(
            slope, rows["alpha"] / rows["sigma"] ** 2 * rows["cov"], rtol=1e-10
        )


def test_events_of_any_shape():
    generator = np.random.default_rng(0)
    means, variances = generator.normal(size=(2, 3, 2, 4))
    mixture = analytic.Mixture(np.ones(3), means, variances**2)
    flat = analytic.Mixture(
        np.ones(3), means.reshape(3, 8), variances.reshape(3, 8) ** 2
    )
    z = generator.normal(size=(5, 6, 2, 4))
    t = generator.uniform(size=(5, 6))
    schedule = schedules.Cosine()
    ours = mixture.denoise_fn(schedule=schedule)(z, t)
    theirs = flat.denoise_fn(schedule=schedule)(z.reshape(5, 6, 8), t)
    np.testing.assert_allclose(ours.x.reshape(5, 6, 8), theirs.x, rtol=1e-5, atol=1e-6)
    assert mixture.log_density(z, 0.3, 0.7).shape == (5, 6)
    np.testing.assert_allclose(
        mixture.denoised(z, 0.3, 0.7).x[2, 3],
        mixture.denoised(z[2, 3], 0.3, 0.7).x,
        rtol=1e-5,
    )


def test_score_is_the_gradient_of_the_log_density():
    mixture, _ = table()
    z = np.linspace(-3, 4, 15, dtype=np.float32)
    slope = jax.vmap(jax.grad(lambda z: mixture.log_density(z, 0.8, 0.5)))(z)
    np.testing.assert_allclose(mixture.score(z, 0.8, 0.5), slope, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("t", [0.0, 1e-7, 1 - 1e-7, 1.0])
def test_both_ends(t):
    data = analytic.gaussian(np.array([0.5, -1.0]), 0.25)
    z = np.array([[0.3, 2.0], [-1.0, 0.0]], np.float32)
    schedule = schedules.FlowMatching()
    denoised = data.denoise_fn(schedule=schedule)(z, t)
    x, eps = oracles.gaussian_denoised(z, 1 - t, t, np.array([0.5, -1.0]), 0.25)
    np.testing.assert_allclose(denoised.x, x, atol=1e-6)
    np.testing.assert_allclose(denoised.eps, eps, atol=1e-6)


def test_samples_have_the_moments():
    mixture, _ = table()
    x = mixture.sample(jax.random.key(0), (200_000,))
    weights, means = np.array([0.3, 0.5, 0.2]), np.array([-2, 0.5, 3])
    second = np.sum(weights * (np.array([0.04, 0.25, 0.01]) + means**2))
    np.testing.assert_allclose(x.mean(), np.sum(weights * means), atol=0.02)
    np.testing.assert_allclose(np.mean(x**2), second, rtol=0.01)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: analytic.gaussian(0.0, -1.0), "variance with -1.0.*at least 0"),
        (lambda: analytic.gaussian(jnp.zeros(2), jnp.array([1.0, np.nan])), "nan"),
        (
            lambda: analytic.Mixture(np.ones(2), np.zeros(2), np.array([1.0, -0.1])),
            "variances with -0.1.*at least 0",
        ),
        (
            lambda: analytic.Mixture(np.array([1.0, 0.0]), np.zeros(2), 1.0),
            "weights with 0.0.*positive.*leave",
        ),
        (lambda: analytic.Mixture([0.5, -0.5], [0.0, 1.0], [1.0, 1.0]), "-0.5"),
    ],
)
def test_bad_values_are_refused(build, words):
    with pytest.raises(ValueError, match=words):
        build()


@pytest.mark.ci
def test_a_mixture_of_gradients_is_not_checked():
    """The slope of log N(0; 1, v) in v is `(1 / v - 1) / (2 v)`, negative here."""
    zero, one = jnp.zeros(1), jnp.ones(1)
    density = lambda law: law.log_density(zero, 1.0, 0.0)
    law = analytic.Mixture(one, one[:, None], 4 * one[:, None])
    slope = jax.grad(density)(law).variances
    np.testing.assert_allclose(slope, [[-3 / 32]], rtol=1e-5)
    both = jax.tree.map(lambda leaf: np.stack([leaf, leaf]), law)
    values = jax.vmap(density)(both)  # JAX rebuilds it around objects of its own
    np.testing.assert_allclose(values, np.full(2, density(law)), rtol=1e-6)
    built = jax.jit(lambda v: analytic.gaussian(zero, v).variances)(4 * one)
    np.testing.assert_array_equal(built, [[4.0]])
