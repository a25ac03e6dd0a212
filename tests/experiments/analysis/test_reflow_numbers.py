"""Reflow of a mixture in one dimension: `analysis/reflow.py`."""

import jax.numpy as jnp
import numpy as np
import pytest

from diffusionflow import analytic
from experiments.analysis import reflow, sampler_error
from tests.helpers import fewstep


@pytest.fixture(scope="module")
def first():
    return reflow.before(sampler_error.mixture())


@pytest.mark.parametrize("name", fewstep.names("reflow/mixture_map_*"))
def test_paths_before_are_the_exact_flow(first, name):
    """20-digit values at s = 0, 1/4, 1/2, 3/4, interpolated between the starts."""
    start = fewstep.inputs(name)["z1"]
    places = [round((1 - s) * 256) for s in (0, 0.25, 0.5, 0.75)]
    found = [np.interp(start, first.paths[0], first.paths[i]) for i in places]
    np.testing.assert_allclose(found, fewstep.value(name), atol=1e-3)


def test_straightness_before_is_that_of_the_sheet(first):
    """0.875418, by quadrature; quantiles leave the tails out."""
    assert first.straightness == pytest.approx(0.875418, abs=1e-3)


@pytest.mark.parametrize("name", fewstep.names("reflow/euler_pairs_v0.25_*"))
def test_reflow_keeps_the_euler_steps_of_its_pairs(name):
    """On N(0, v) each is a factor, of 20 digits."""
    gaussian = analytic.Mixture(np.ones(1), np.zeros(1), np.full(1, 0.25))
    models = reflow.reflow(
        reflow.before(gaussian, num_times=3), int(fewstep.inputs(name)["steps"])
    )
    for model in models[1:]:
        assert model.straightness < 1e-25
        wanted = fewstep.value(name) * reflow.noise()
        for steps in (1, 3):
            found = reflow.euler(model, steps)
            np.testing.assert_allclose(found[-1], wanted, atol=1e-12)
    assert np.ptp(reflow.euler(models[0], 1)[-1]) < 1e-12  # one step: the mean


def test_times_may_be_of_each_example(first):
    model = reflow.reflowed(first.paths[-1])
    z, t = jnp.array([0.3, -1.2]), jnp.array([0.7, 0.2])
    together = model.denoise_fn(z, t)
    for i in range(2):
        alone = model.denoise_fn(z[i : i + 1], t[i])
        np.testing.assert_allclose(together.x[i], alone.x[0], rtol=1e-5)
