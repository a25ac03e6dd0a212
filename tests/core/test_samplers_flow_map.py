"""Jumps of flow maps: exact laws at every gamma, and DDIM where there is no map."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusionflow import (
    analytic,
    distillation,
    grids,
    random,
    samplers,
    schedules,
)
from tests.helpers import all_schedules, fewstep, oracles
from tests.helpers.all_samplers import SCHEDULES, levels
from tests.helpers.parametrize import check_all

VARIANCE = 0.37
FLOW = schedules.FlowMatching()
GRID = np.array([1.0, 0.8, 0.5, 0.1, 0.0])
GAMMAS = (0.0, 0.3, 0.8, 1.0)
SOME = ("FM", "cos", "cos_trunc", "vp_lin", "subvp", "ve_geo", "edm_rho", "laplace")


def exact_map(schedule, v=VARIANCE):
    """The flow map of N(0, v) as one of kind u that is right for s = t too."""
    move = fewstep.gaussian_map(schedule, 0.0, v)

    def predict_fn(z, t, s):
        a, b = distillation.jump_coefficients("u", t, s, schedule=schedule)
        return (move(z, t, s) - a * z) / jnp.where(b == 0, 1.0, b)

    return distillation.flow_map(predict_fn, kind="u", schedule=schedule)


def end(sampler, schedule, times, denoise_fn):
    """`(factor on z, weights of the noise)` of a run, which is linear in both.

    One example has z = 1, each other has one draw of noise 1, and all else is 0.
    """
    rows = samplers.plan(sampler, times, schedule=schedule)
    one = np.eye(len(times))
    source = random.Recorded(one[1:][:, None])
    x = samplers.run(
        None, denoise_fn, jnp.asarray(one[0]), rows, sampler=sampler, noise=source
    ).x
    return float(x[0]), np.asarray(x)[1:]


def law(sampler, schedule, times, denoise_fn, start):
    """The variance at the end from N(0, start)."""
    factor, weights = end(sampler, schedule, times, denoise_fn)
    return factor**2 * start + np.sum(weights**2)


@pytest.mark.ci
def test_the_exact_law_at_every_gamma():
    found = {
        f"{name}, gamma {gamma}": (schedule, gamma)
        for name, schedule in all_schedules.SCHEDULES.items()
        if name in SOME
        for gamma in (GAMMAS if name == "cos_trunc" else (0.7,))
    }
    check_all(keeps_the_exact_law, found)


def keeps_the_exact_law(schedule, gamma):
    with jax.enable_x64(True):
        times = GRID if schedule.sigma(GRID[-1]) > 0 else np.append(GRID[:-1], 0.02)
        start, last = (
            float(fewstep.variance(schedule, np.float64(t), VARIANCE))
            for t in (times[0], times[-1])
        )
        sampler = samplers.FlowMap(gamma)
        found = law(sampler, schedule, times, exact_map(schedule), start)
    np.testing.assert_allclose(found, last, rtol=1e-9)


def test_the_law_is_exact_to_the_data():
    with jax.enable_x64(True):
        for gamma in GAMMAS:
            sampler = samplers.FlowMap(gamma)
            found = law(sampler, FLOW, GRID, exact_map(FLOW), 1.0)
            np.testing.assert_allclose(found, VARIANCE, rtol=1e-13)


@pytest.mark.parametrize("name", fewstep.names("samplers/gamma_*"))
def test_gamma_sampling(name):
    given, expected = fewstep.inputs(name), fewstep.value(name)
    schedule, v = fewstep.SCHEDULES[given["schedule"]], given["v"]
    sampler, times = samplers.FlowMap(0.3), np.array([0.8, 0.5])
    with jax.enable_x64(True):
        rows = samplers.plan(sampler, times, schedule=schedule)
        factor, noise = end(sampler, schedule, times, exact_map(schedule, v))
        start = float(fewstep.variance(schedule, np.float64(0.8), v))
    close = functools.partial(np.testing.assert_allclose, rtol=1e-12)
    close(rows["s"], [expected["s_tilde"]])
    close(factor, expected["factor"])
    close(noise, [expected["noise"]])
    close(factor**2 * start + noise[0] ** 2, expected["variance_after"])


@pytest.mark.parametrize("name", fewstep.names("samplers/renoise_*"))
def test_renoising_forgets_the_error_of_the_first_call(name):
    """A map 10 % too wide at t = 1: how much is left after a second call."""
    t, expected = fewstep.inputs(name)["t"], fewstep.value(name)
    exact = exact_map(FLOW)

    def predict_fn(z, t, s):
        wide = jnp.where(t == 1, 1.1, 1.0) * exact(z, t, s)
        return (z - wide) / (t - s)

    wide_map = distillation.flow_map(predict_fn, kind="u", schedule=FLOW)
    times = np.array([1.0, t, 0.0])
    with jax.enable_x64(True):
        found = law(samplers.FlowMap(1.0), FLOW, times, wide_map, 1.0)
        kept = law(samplers.FlowMap(0.0), FLOW, times, wide_map, 1.0)
    np.testing.assert_allclose(np.sqrt(found / VARIANCE) - 1, expected, rtol=1e-9)
    np.testing.assert_allclose(np.sqrt(kept / VARIANCE) - 1, 0.1, rtol=1e-9)


def test_renoising_a_wide_map_gets_worse_with_calls():
    """10 % too wide everywhere, renoised to t = 0.5: consistency models degrade so."""
    move = fewstep.gaussian_map(FLOW, 0.0, VARIANCE)

    def predict_fn(z, t, s):
        return (z - 1.1 * move(z, t, s)) / (t - s)

    wide_map = distillation.flow_map(predict_fn, kind="u", schedule=FLOW)
    errors, std = [], 1.1 * np.sqrt(VARIANCE)
    with jax.enable_x64(True):
        for count in range(5):
            times = np.array([1.0, *(0.5 - 1e-9 * np.arange(count)), 0.0])
            found = law(samplers.FlowMap(1.0), FLOW, times, wide_map, 1.0)
            errors.append(np.sqrt(found / VARIANCE) - 1)
            np.testing.assert_allclose(np.sqrt(found), std, rtol=1e-8)
            total = 0.25 * (1 + std**2)
            std = 1.1 * np.sqrt(total * VARIANCE / (0.25 * (1 + VARIANCE)))
    np.testing.assert_allclose(errors, [0.1, 0.131, 0.141, 0.144, 0.145], atol=5e-4)


# ---- denoisers without a second time


@pytest.mark.ci
def test_without_a_map_it_is_ddim():
    data = analytic.gaussian(np.array([0.5, -1.0]), 0.25)
    z = jnp.array([[0.3, 1.0], [-1.2, 0.4]])
    for schedule in SCHEDULES.values():
        sample = lambda sampler, schedule=schedule: samplers.sample(
            jax.random.key(0),
            data.denoise_fn(schedule=schedule),
            z,
            grids.uniform(5),
            sampler=sampler,
            schedule=schedule,
        )
        found, ddim = sample(samplers.FlowMap()), sample(samplers.ddim())
        np.testing.assert_allclose(found.x, ddim.x, rtol=1e-5, atol=1e-6)
        assert found.nfe == ddim.nfe


@pytest.mark.parametrize("on", SCHEDULES)
def test_gamma_is_the_churn_family_with_one_k(on):
    schedule, gamma = SCHEDULES[on], 0.6
    times = grids.uniform(6)
    alpha, sigma = levels(schedule, times)
    with jax.enable_x64(True):
        data = analytic.gaussian(np.zeros(()), VARIANCE)
        factor, weights = end(
            samplers.FlowMap(gamma), schedule, times, data.denoise_fn(schedule=schedule)
        )
    k, expected, noises = np.sqrt(1 - gamma**2), 1.0, []
    for i in range(6):
        x, eps = oracles.gaussian_denoised(1.0, alpha[i], sigma[i], 0.0, VARIANCE)
        least = sigma[-1] / alpha[-1] * alpha[i + 1]  # of the noise, at the first time
        kept = max(k * sigma[i + 1], least)
        gain = alpha[i + 1] * x + kept * eps
        expected, noises = gain * expected, [gain * noise for noise in noises]
        noises.append(np.sqrt(sigma[i + 1] ** 2 - kept**2))
    np.testing.assert_allclose(factor, expected, rtol=1e-9)
    np.testing.assert_allclose(weights, noises, rtol=1e-7, atol=1e-9)


# ---- plan, calls, errors


def test_the_plan_is_numpy_and_data():
    run = jax.jit(lambda *args, **settings: samplers.run(*args, **settings))
    denoise_fn = exact_map(FLOW)
    for gamma in GAMMAS:
        sampler = samplers.FlowMap(gamma)
        rows = samplers.plan(sampler, GRID, schedule=FLOW)
        assert all(isinstance(each, np.ndarray) for each in rows.values())
        assert all(each.dtype == np.float64 for each in rows.values())
        result = run(jax.random.key(0), denoise_fn, jnp.ones(3), rows, sampler=sampler)
        assert np.isfinite(result.x).all() and result.nfe == 4
    assert run._cache_size() == 1
    traced = jax.jit(
        lambda gamma, times: samplers.plan(
            samplers.FlowMap(gamma), times, schedule=FLOW
        )
    )
    for gamma in GAMMAS:
        rows = samplers.plan(samplers.FlowMap(gamma), GRID, schedule=FLOW)
        for name, column in traced(gamma, GRID).items():
            np.testing.assert_allclose(column, rows[name], atol=2e-6)


def test_fresh_noise_starts_at_the_first_time_of_a_schedule_that_is_not_clean():
    schedule = SCHEDULES["truncated"]
    rows = samplers.plan(samplers.FlowMap(1.0), GRID, schedule=schedule)
    np.testing.assert_array_equal(rows["s"], 0.0)
    total = rows["eps"] ** 2 + rows["noise"] ** 2
    np.testing.assert_allclose(total, schedule.sigma(GRID[1:]) ** 2, rtol=1e-12)
    assert rows["noise"][-1] == 0


def test_calls_are_those_of_the_network():
    calls = []

    def predict_fn(z, t, s):
        jax.debug.callback(lambda t, s: calls.append((float(t), float(s))), t, s)
        return z

    fn = distillation.flow_map(predict_fn, kind="u", schedule=FLOW, num_network_calls=2)
    rows = samplers.plan(samplers.FlowMap(), GRID, schedule=FLOW)
    result = samplers.run(
        jax.random.key(0), fn, jnp.ones(3), rows, sampler=samplers.FlowMap()
    )
    jax.block_until_ready(result.x)
    jax.effects_barrier()
    assert result.nfe == 8 and len(calls) == 4
    np.testing.assert_allclose(
        sorted(calls, reverse=True), np.stack([GRID[:-1], GRID[1:]], 1), atol=1e-6
    )


def test_gamma_is_bounded():
    for gamma in (-0.1, 1.1):
        with pytest.raises(ValueError, match=r"gamma=.*in \[0, 1\]"):
            samplers.FlowMap(gamma)
    assert samplers.FlowMap() == samplers.FlowMap(0.0)
    eps = distillation.flow_map(lambda z, t, s: z, kind="eps", schedule=FLOW)
    with pytest.raises(ValueError, match="predict 'u' or 'v'"):
        samplers.sample(
            jax.random.key(0),
            eps,
            jnp.ones(3),
            GRID,
            sampler=samplers.FlowMap(),
            schedule=FLOW,
        )
