"""Langevin correctors: the length of a step, by the norms of noise and score."""

import jax
import numpy as np
import pytest

from diffusionflow import samplers, schedules
from diffusionflow.predictions import Denoised

FLOW = schedules.FlowMatching()
T, S = np.array([0.6]), np.array([0.4])


def corrected(norms, z, xi, eps, steps=1, **kwargs):
    """The z after the corrector, whose predictor is a step of Euler in u = 0."""
    sampler = samplers.Langevin(samplers.Euler("u"), 0.2, steps, norms, **kwargs)
    rows = jax.tree.map(lambda column: column[0], sampler.plan(T, S, FLOW))
    denoise_fn = lambda z, t: Denoised((z - 0.6 * eps) / 0.4, eps)
    rows["predictor"] = dict(rows["predictor"], x=0.4, eps=0.6)  # stays at t
    return sampler.step(z, rows, np.stack([xi] * steps), denoise_fn)


@pytest.fixture
def arrays():
    return np.random.default_rng(0).normal(size=(3, 4, 5))


def test_the_length_of_a_step_by_the_norms(arrays):
    """Song et al., algorithms 4 and 5: `delta = 2 (snr |xi| / |score|)^2`."""
    z, xi, eps = arrays
    size = lambda values: np.sqrt(np.sum(values**2, axis=1, keepdims=True))
    ratios = {
        "expected": 0.6,
        "example": size(xi) / size(eps / 0.6),
        "batch": size(xi).mean() / size(eps / 0.6).mean(),
    }
    for norms, ratio in ratios.items():
        delta = 2 * (0.2 * ratio) ** 2
        expected = z - delta * eps / 0.6 + np.sqrt(2 * delta) * xi
        found = corrected(norms, z, xi, eps)
        np.testing.assert_allclose(found, expected, rtol=1e-12, err_msg=norms)
    one = corrected("example", z[0], xi[0], eps[0], batch_ndim=0)
    np.testing.assert_allclose(one, corrected("example", z, xi, eps)[0], rtol=1e-12)


def test_a_score_of_zero_has_a_step(arrays):
    z, xi, eps = arrays
    found = corrected("example", z, xi, 0 * eps)
    np.testing.assert_allclose(found, z + 2 * 0.2 * 0.6 * xi, rtol=1e-12)
