"""Reflow where all is known: what a sampler's pairs are, and that it straightens.

The rectified flow of a coupling has the velocity `E[eps - x | z]`; 1-RF is that of
independent pairs, 2-RF that of the pairs which 1-RF makes. Numbers are those of
`tests/data/testvectors_fewstep.json`, closed forms and quantile maps of independent
evaluation.
"""

import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusionflow import (
    analytic,
    grids,
    metrics,
    register,
    samplers,
    schedules,
)
from diffusionflow.predictions import Denoised
from tests.helpers.oracles import DATA

VECTORS = json.loads((DATA / "testvectors_fewstep.json").read_text())["reflow"]
FLOW = schedules.FlowMatching()


def named(begin):
    """`(inputs, value)` of the vectors whose names begin so."""
    found = {
        name: (row.get("inputs"), row["value"])
        for name, row in VECTORS.items()
        if name.startswith(begin)
    }
    assert found
    return pytest.mark.parametrize(("inputs", "value"), found.values(), ids=[*found])


@pytest.fixture(autouse=True)
def in_float64():
    with jax.enable_x64(True):
        yield


_run = jax.jit(samplers.run, static_argnames="trajectory")


def to_zero(num_steps):
    """A uniform grid whose last step is small: to sigma = 0 it is Euler's."""
    uniform = grids.uniform(num_steps)
    last = uniform[-2] * np.linspace(1, 0, 51) ** 2
    return np.concatenate([uniform[:-2], last])


def path(denoise_fn, z, sampler, times):
    """All states from `z` on a grid, or on a uniform one of so many steps."""
    times = grids.uniform(times) if isinstance(times, int) else times
    rows = samplers.plan(sampler, times, schedule=FLOW)
    result = _run(
        None, denoise_fn, jnp.asarray(z), rows, sampler=sampler, trajectory=True
    )
    return np.asarray(result.trajectory)


def one_rf(v):
    """The exact 1-RF of N(0, v)."""
    return analytic.gaussian(jnp.zeros(()), v).denoise_fn(schedule=FLOW)


@register
class Linear:
    """The rectified flow of pairs `x = X n`, `eps = E n` for n ~ N(0, I).

    `E[x | z] = Cov(x, z) Cov(z)^-1 z` of jointly normal pairs.
    """

    x: Any
    eps: Any

    def __call__(self, z, t):
        mix = (1 - t) * self.x + t * self.eps
        gain = jnp.linalg.solve(mix @ mix.T, z.T)
        return Denoised((self.x @ mix.T @ gain).T, (self.eps @ mix.T @ gain).T)


def test_every_vector_is_used():
    known = ("euler_pairs", "straightness_1rf", "mixture_map", "two_gaussians")
    assert all(name.startswith(known) for name in VECTORS)


@named("euler_pairs")
def test_pairs_of_euler_have_the_error_of_euler(inputs, value):
    """x = c z_1, and a student of the pairs learns c: no more steps bring sqrt(v)."""
    v, steps, c = float(inputs["v"]), inputs["steps"], float(value)
    z = np.array([1.0, -0.4, 2.3])
    x = path(one_rf(v), z, samplers.Euler("u"), steps)[-1]
    np.testing.assert_allclose(x, c * z, rtol=1e-12, atol=1e-15)
    student = Linear(jnp.array([[c]]), jnp.eye(1))
    for sampler, more in ((samplers.Euler("u"), 1), (samplers.Heun("u"), 7)):
        again = path(student, z[:, None], sampler, more)[-1]
        np.testing.assert_allclose(again[:, 0], x, rtol=1e-12, atol=1e-15)


@named("straightness_1rf")
def test_one_reflow_makes_the_paths_straight(inputs, value):
    """(2 - pi / 2) sqrt(v) before, extrapolated from two grids, and 0 after."""
    v = float(inputs["v"])
    z, coarse = np.ones((1, 1)), 200
    measured = [
        metrics.straightness(
            path(one_rf(v), z, samplers.Midpoint("u"), steps), grids.uniform(steps)
        )[0]
        for steps in (coarse, 2 * coarse)
    ]
    before = (4 * measured[1] - measured[0]) / 3  # both of order 2
    np.testing.assert_allclose(before, float(value), rtol=1e-6)
    x = path(one_rf(v), z, samplers.RK4("u"), to_zero(coarse))[-1]
    np.testing.assert_allclose(x, np.sqrt(v), rtol=1e-7)
    student = Linear(jnp.asarray(x), jnp.eye(1))
    after = path(student, z, samplers.RK4("u"), coarse)
    assert metrics.straightness(after, grids.uniform(coarse))[0] < 1e-24
    np.testing.assert_allclose(after[-1], x, rtol=1e-12)


@named("mixture_map")
def test_pairs_of_a_mixture_are_its_quantiles(inputs, value):
    weights, means, variances = (
        np.array(inputs[name], float) for name in ("pi", "mu", "var")
    )
    data, times = analytic.Mixture(weights, means, variances), to_zero(800)
    states = path(
        data.denoise_fn(schedule=FLOW),
        np.array(float(inputs["z1"])),
        samplers.RK4("u"),
        times,
    )
    expected = np.array(value, float)  # at 0, 1/4, 1/2, 3/4
    found = [states[times == t].item() for t in (0, 0.25, 0.5, 0.75)]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.ci
@named("two_gaussians_2d")
def test_between_two_gaussians_reflow_is_straight_and_not_optimal(inputs, value):
    data, noise = (np.linalg.cholesky(np.array(inputs[k], float)) for k in ("C0", "C1"))
    zeros = np.zeros((2, 2))
    pairs = np.hstack([data, zeros]), np.hstack([zeros, noise])
    independent = Linear(*map(jnp.asarray, pairs))
    rf_map, ot_map = (np.array(value[k], float) for k in ("rf_map", "ot_map"))
    found = path(independent, np.eye(2), samplers.RK4("u"), to_zero(400))[-1].T
    np.testing.assert_allclose(found, rf_map, rtol=1e-7)
    cost = lambda x, eps: ((x - eps) ** 2).sum()
    costs = {
        "independent": cost(*pairs),
        "rf": cost(rf_map @ noise, noise),
        "ot": cost(ot_map @ noise, noise),
    }
    for name, each in costs.items():
        np.testing.assert_allclose(each, float(value[f"cost_{name}"]), rtol=1e-12)
    assert costs["rf"] > costs["ot"] + 2e-4
    again = Linear(jnp.asarray(rf_map @ noise), jnp.asarray(noise))
    for steps in (1, 3):  # straight: any steps give the same map, of the same cost
        once_more = path(again, np.eye(2), samplers.Euler("u"), steps)[-1].T
        np.testing.assert_allclose(once_more, rf_map, rtol=1e-12)
