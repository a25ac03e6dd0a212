"""Objects of network libraries that hold a denoiser, and are handed over as one."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusionflow import grids, guidance, predictions, samplers, schedules
from tests.helpers.denoisers import FLOW, Z, check_entries, records_calls


class Net(nn.Module):
    """It calls `note` where it runs."""

    note: Callable

    @nn.compact
    def __call__(self, z):
        jax.debug.callback(self.note, z)
        return nn.Dense(2, param_dtype=jnp.float32)(z)


class Model:
    """A flax module with its parameters, and the denoiser made of it."""

    def __init__(self, calls, kind="u"):
        self.net = Net(lambda z: calls.append(None))
        self.params = self.net.init(jax.random.key(0), Z)
        self.kind = kind

    def predict(self, z, t):
        return self.net.apply(self.params, z)

    def __call__(self, z, t):
        denoise_fn = predictions.denoiser(self.predict, kind=self.kind, schedule=FLOW)
        return denoise_fn(z, t)


def flax_model(calls, kind="u"):
    return Model(calls, kind)


def equinox_model(calls, kind="u"):
    eqx = pytest.importorskip("equinox")

    class Module(eqx.Module):
        layer: eqx.nn.Linear
        name: str = eqx.field(static=True)

        def predict(self, z, t):
            jax.debug.callback(lambda z: calls.append(None), z)
            return z @ self.layer.weight.T

        @eqx.filter_jit
        def __call__(self, z, t):
            denoise_fn = predictions.denoiser(
                self.predict, kind=self.name, schedule=FLOW
            )
            return denoise_fn(z, t)

    key = jax.random.key(0)
    layer = eqx.nn.Linear(2, 2, use_bias=False, key=key, dtype=jnp.float32)
    return Module(layer, kind)


each = pytest.mark.parametrize("make", [flax_model, equinox_model])


@pytest.mark.ci
@each
def test_calls_are_counted(make):
    calls = []
    check_entries(make(calls), calls, counted=True)


@each
def test_checks_are_kept(make):
    settings = dict(sampler=samplers.Euler("x"), schedule=FLOW)
    with pytest.raises(ValueError, match=r"eps does not determine.* at t=1\.0"):
        samplers.sample(None, make([], "eps"), Z, grids.uniform(2), **settings)
    settings["schedule"] = schedules.Cosine()
    with pytest.raises(ValueError, match="denoise_fn belongs to.*reschedule"):
        samplers.sample(None, make([]), Z, grids.uniform(2), **settings)


@pytest.mark.ci
def test_a_class_that_holds_a_guided_module():
    """Through a class, jit and guidance, with known pixels."""
    with records_calls() as (fn, calls):
        model = Model(calls)
        jax.effects_barrier()
        calls.clear()
        plain = guidance.classifier_free(fn, model, scale=2.0)
        known, mask = np.float32([0.25, 0.0]), np.array([True, False])
        inside = guidance.inpaint(plain, known, mask, schedule=FLOW)
        settings = dict(sampler=samplers.Heun("u"), schedule=FLOW)
        jitted = jax.jit(inside)
        jax.block_until_ready(jitted(Z, jnp.float32(0.5)))
        result = samplers.sample(None, jitted, Z, grids.uniform(2), **settings)
        jax.effects_barrier()
    np.testing.assert_array_equal(result.x[:, 0], known[0])
    assert result.nfe == len(calls) - 2
