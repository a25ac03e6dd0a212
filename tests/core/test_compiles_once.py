"""Calling a jitted function of the library again compiles nothing and keeps no memory.

The library has no `jit` inside, but for `grids.optimize`, whose programs end with the
call: a plain Python function may read parameters that change between calls, and a
hidden cache would not see that. The idiom of README and docstrings is a function of the
user's own under `jax.jit`.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusionflow import (
    analytic,
    grids,
    likelihood,
    predictions,
    samplers,
    schedules,
)
from tests.helpers.programs import counted

FLOW = schedules.FlowMatching()
FINITE = schedules.Cosine(logsnr_min=-9.0, logsnr_max=9.0)
Z = jnp.linspace(-1, 1, 6).reshape(3, 2)


def predict_fn(z, t):
    return -0.5 * z


def denoiser(schedule):
    return predictions.denoiser(predict_fn, kind="u", schedule=schedule)


CALLS = {
    "sample": lambda key: (
        samplers.sample(
            key,
            denoiser(FLOW),
            Z,
            grids.uniform(4),
            sampler=samplers.Churn(0.3),
            schedule=FLOW,
        ).x
    ),
    "sample through a function": lambda key: (
        samplers.sample(
            key,
            lambda z, t: denoiser(FLOW)(z, t),
            Z,
            grids.uniform(4),
            sampler=samplers.Heun("u"),
            schedule=FLOW,
        ).x
    ),
    "encode": lambda key: (
        likelihood.encode(
            key, denoiser(FLOW), Z, schedule=FLOW, solver=likelihood.Fixed(3)
        ).log_p
    ),
    "discrete_bound": lambda key: (
        likelihood.discrete_bound(
            key, denoiser(FINITE), Z, times=grids.uniform(4), schedule=FINITE
        ).total
    ),
    "continuous_bound": lambda key: (
        likelihood.continuous_bound(key, denoiser(FINITE), Z, schedule=FINITE).total
    ),
    "solve": lambda key: (
        samplers.solve(denoiser(FLOW), Z, 1.0, 0.1, schedule=FLOW, max_steps=40).x
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_jitted_function_compiles_once(name):
    if name == "solve":
        pytest.importorskip("diffrax")
    call = jax.jit(CALLS[name])
    keys = list(jax.random.split(jax.random.key(0), 5))
    first = call(keys[0])
    with counted() as programs:
        for key in keys[1:]:
            again = call(key)
    assert programs.compiled == 0
    assert again.shape == first.shape


def test_one_program_for_every_plan():
    """`run` takes plan, sampler and denoiser as data."""
    draw = jax.jit(samplers.run)
    denoise_fn = denoiser(FLOW)
    for churn in (0.0, 0.2, 0.7):
        sampler = samplers.Churn(churn)
        rows = samplers.plan(sampler, grids.uniform(4), schedule=FLOW)
        draw(jax.random.key(0), denoise_fn, Z, rows, sampler=sampler)
    assert draw._cache_size() == 1


def test_an_exact_denoiser_in_a_loop_compiles_once():
    def call(variance):
        data = analytic.gaussian(np.zeros(2), variance)
        return data.denoise_fn(schedule=FLOW)(Z, 0.5).x

    call(0.25)
    with counted() as programs:
        for variance in (0.3, 0.4, 0.5):
            call(variance)
    assert programs.compiled == 0


def memory():
    """MiB that the process holds."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096 / 2**20


def test_a_thousand_calls_keep_no_memory():
    draw = jax.jit(CALLS["sample"])
    keys = list(jax.random.split(jax.random.key(0), 1000))
    for key in keys[:100]:
        draw(key).block_until_ready()
    before = memory()
    for key in keys:
        draw(key).block_until_ready()
    assert memory() - before < 20
