"""`interop.to_diffusers`: U-Net and DiT of this library as those of diffusers.

That the latter are what diffusers computes is tested by its records
(`test_pretrained_unet2d.py`, `test_pretrained_dit.py`).
"""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusionflow import interop
from diffusionflow.networks import DiT, ResidualMLP, UNet
from tests.helpers.pretrained_runs import close

FREQUENCY = dict(max_frequency=10_000.0)
SMALL = dict(features=32, num_blocks=2, num_heads=2) | FREQUENCY
DEEP = dict(channels=128, num_blocks=1, num_heads=4, time_features=128) | FREQUENCY
CASES = {
    "DiT": (DiT(num_classes=3, **SMALL), (8, 8, 3)),
    "scanned DiT of two times": (DiT(scan=True, two_times=True, **SMALL), (4, 4, 1)),
    "U-Net": (UNet(num_classes=3, multipliers=(1, 2), **DEEP), (4, 4, 3)),
    "U-Net with attention": (
        UNet(multipliers=(1, 1), attention_resolutions=(4, 2), **DEEP),
        (4, 6, 1),
    ),
}


def filled(net, shape):
    """Random parameters; what is zero at the start as well."""
    z, one, label = jnp.zeros((1, *shape)), jnp.zeros(1), jnp.zeros(1, int)
    shapes = jax.eval_shape(net.init, jax.random.key(0), z, one, label)["params"]
    rng = np.random.RandomState(0)

    def random(leaf):
        scale = 0.3 if len(leaf.shape) < 2 else np.prod(leaf.shape[:-1]) ** -0.5
        return jnp.asarray(scale * rng.standard_normal(leaf.shape), jnp.float32)

    return jax.tree.map(random, shapes)


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.ci] * ("U-" in name)) for name in CASES],
)
def test_the_network_of_diffusers_computes_the_same(name):
    """Up to float32's rounding of an angle of the time, which is up to 10,000."""
    net, shape = CASES[name]
    params = filled(net, shape)
    there, moved = interop.to_diffusers(net, params, shape)
    z = jnp.asarray(np.random.RandomState(1).standard_normal((4, *shape)), jnp.float32)
    label = jnp.array([0, 2, 3, 1]) if net.num_classes else None
    ours = jax.jit(lambda time: net.apply({"params": params}, z, time, label))
    theirs = jax.jit(lambda time: there.apply({"params": moved}, z, time, label))
    for time, tolerance in (
        ([0.0, 0.001, 0.005, 0.01], 1e-5),
        ([0.1, 0.5, 0.9, 0.9999], 2e-4),
    ):
        exact = ours(jnp.array(time))
        assert np.abs(exact).max() > 0.1
        close(theirs(10_000 * jnp.array(time)), exact, tolerance)


class Residual(DiT):
    """A user's own: another function of the same parameters."""

    def predict(self, z, vector, train):
        return z + super().predict(z, vector, train)


OTHERS = {
    "frequency": (DiT(), "max_frequency=1000: must be 10000"),
    "vector": (DiT(vector_features=2), "vector_features=2: must be 0"),
    "positions": (DiT(positions="rotary"), "positions='rotary': must be 'sinusoidal'"),
    "expansion": (DiT(expansion=2), "expansion=2: must be 4"),
    "patches": (DiT(patch_size=(1, 2)), "patch_size=(1, 2): must be one number"),
    "channels": (UNet(channels=64), "normalisations of 16 and 32 groups: must be of"),
    "time": (UNet(channels=128), "time_features=None: must be channels=128"),
    "first": (UNet(multipliers=(2, 2)), "multipliers=(2, 2): must start with 1"),
    "heads": (
        UNet(channels=128, attention_resolutions=(8,)),
        "heads of 32 and 64 channels: must be of one number",
    ),
    "subclass": (
        Residual(**SMALL),
        "no Residual: must be a UNet or a DiT of this library, not a subclass",
    ),
    "points": (ResidualMLP(features=8, num_blocks=1), "diffusers has no ResidualMLP"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_differs_is_said(name):
    net, message = OTHERS[name]
    with pytest.raises(ValueError, match=re.escape(message)):
        interop.to_diffusers(net, {}, (8, 8, 1))


def test_data_that_diffusers_has_not_are_refused():
    for shape, message in (((8, 1), "must be images"), ((8, 4, 1), "must be square")):
        with pytest.raises(ValueError, match=message):
            interop.to_diffusers(DiT(**SMALL), {}, shape)
