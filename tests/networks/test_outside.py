"""The library from outside: any network trains, in any library, and with x64 on."""

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from diffusionflow import (
    grids,
    guidance,
    losses,
    objectives,
    predictions,
    samplers,
    schedules,
)

OBJECTIVE = objectives.flow_matching()
DATA = 2 + 0.1 * jax.random.normal(jax.random.key(7), (64, 2), jnp.float32)


class Linen(nn.Module):
    @nn.compact
    def __call__(self, z, t):
        return nn.Dense(2)(nn.relu(nn.Dense(16)(jnp.append(z, t[:, None], axis=1))))


class Nnx(nnx.Module):
    def __init__(self):
        rngs = nnx.Rngs(0)
        self.hidden = nnx.Linear(3, 16, rngs=rngs)
        self.out = nnx.Linear(16, 2, rngs=rngs)

    def __call__(self, z, t):
        return self.out(jax.nn.relu(self.hidden(jnp.append(z, t[:, None], axis=1))))


class Equinox(eqx.Module):
    mlp: eqx.nn.MLP

    def __call__(self, z, t):
        return jax.vmap(self.mlp)(jnp.append(z, t[:, None], axis=1))


def linen():
    module = Linen()
    params = module.init(jax.random.key(0), DATA, jnp.zeros(len(DATA), jnp.float32))
    return params, lambda params: lambda z, t: module.apply(params, z, t)


def from_nnx():
    graph, params = nnx.split(Nnx())
    return params, lambda params: nnx.merge(graph, params)


def equinox():
    module = Equinox(eqx.nn.MLP(3, 2, 16, 1, key=jax.random.key(0), dtype=jnp.float32))
    params, static = eqx.partition(module, eqx.is_array)
    return params, lambda params: eqx.combine(params, static)


def bare():
    params = 0.1 * jax.random.normal(jax.random.key(0), (3, 2), jnp.float32)
    return params, lambda w: lambda z, t: jnp.append(z, t[:, None], axis=1) @ w


@pytest.mark.parametrize("make", [linen, from_nnx, equinox, bare])
def test_three_steps_of_training(make):
    """`objective_loss` on fixed draws falls in each of three jitted gradient steps."""
    params, network = make()
    traces = []

    @jax.jit
    def step(params, key):
        traces.append(None)

        def loss_fn(params):
            predict_fn = network(params)
            return losses.objective_loss(
                key, predict_fn, DATA, objective=OBJECTIVE
            ).mean()

        loss, gradient = jax.value_and_grad(loss_fn)(params)
        descend = lambda value, slope: value - 0.03 * slope
        return jax.tree.map(descend, params, gradient), loss

    history = []
    for _ in range(4):
        params, loss = step(params, jax.random.key(1))
        history.append(float(loss))
    assert len(traces) == 1
    assert np.isfinite(history).all()
    assert (np.diff(history) < 0).all()


def main_calls(x, z, t):
    """What a project calls, on data of one dtype: name -> arrays."""
    net = lambda z, t: 0.5 * z * predictions.per_event(t, z)
    schedule = schedules.Cosine()
    key = jax.random.key(0)
    denoise_fn = predictions.denoiser(net, kind="v", schedule=schedule)
    guided = guidance.classifier_free(denoise_fn, denoise_fn, scale=2.0)
    other = predictions.reschedule(
        denoise_fn, source=schedule, target=schedules.FlowMatching()
    )
    terms = losses.objective_terms(key, net, x, objective=objectives.v_cosine())
    plain = dict(schedule=schedule)
    s = t / 2
    draw = lambda sampler: (
        samplers.sample(
            key, denoise_fn, z, grids.uniform(3), sampler=sampler, schedule=schedule
        ).x
    )
    return {
        "terms": (terms.loss, terms.eps_mse, terms.importance),
        "plain": (
            losses.ddpm_loss(net, x, t, x, **plain),
            losses.cfm_loss(net, x, t, x, **plain),
            losses.dsm_loss(net, x, t, x, **plain),
            losses.fm_loss(net, denoise_fn, x, t, x, **plain),
        ),
        "bound": (
            losses.kl_terms(net, x, t, s, x, kind="v", **plain),
            losses.prior_kl(x, **plain),
        ),
        "denoised": (*denoise_fn(z, t), *guided(z, t), *other(z, t)),
        "converted": predictions.convert(
            z, source="v", target="x", z=z, t=t, schedule=schedule
        ),
        "samples": (draw(samplers.ddim()), draw(samplers.ddpm())),
    }


@pytest.mark.pinned
@pytest.mark.parametrize(
    ("x64", "dtype"), [(False, "float32"), (True, "float32"), (True, "float64")]
)
def test_the_dtype_of_the_data_is_the_dtype_of_the_result(x64, dtype):
    """Under strict promotion; float32 stays so under x64."""
    with jax.enable_x64(x64):
        x, z = (jnp.full((4, 3), value, dtype) for value in (0.3, 1.0))
        results = main_calls(x, z, jnp.full((4,), 0.4, dtype))
        for name, arrays in results.items():
            for array in jax.tree.leaves(arrays):
                assert array.dtype == dtype, (name, array.dtype)
                assert np.isfinite(array).all(), name


@pytest.mark.pinned
def test_float32_and_float64_agree():
    found = {}
    for dtype in ("float32", "float64"):
        with jax.enable_x64(dtype == "float64"):
            x, z = (jnp.full((4, 3), value, dtype) for value in (0.3, 1.0))
            found[dtype] = main_calls(x, z, jnp.full((4,), 0.4, dtype))
    for name in ("plain", "bound", "denoised", "converted"):
        for single, double in zip(
            *(jax.tree.leaves(found[dtype][name]) for dtype in found), strict=True
        ):
            np.testing.assert_allclose(single, double, rtol=2e-5)
