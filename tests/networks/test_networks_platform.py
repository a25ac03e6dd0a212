"""Forms by platform: both have the same values and gradients, and who takes which."""

from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusionflow.networks import DiT, UNet, forms, layers, platform
from tests.helpers.networks import arguments, fast, perturbed

CPU, TPU = platform.Target("cpu"), platform.Target("tpu")


def normal(key, *shape):
    return jax.random.normal(jax.random.key(key), shape)


def both_forms(fn, *inputs):
    """Values and gradients of sin(fn) in the form of a CPU and in the other one."""

    def loss(*inputs):
        out = fn(*inputs)
        return jnp.sin(out.astype(jnp.float32)).sum(), out

    found = []
    for target in (CPU, TPU):
        each = jax.value_and_grad(loss, range(len(inputs)), has_aux=True)
        with platform.lowered_for(target):
            found.append(fast(lambda *inputs, each=each: each(*inputs))(*inputs))
    return found


def group_norm(x, film, scale, bias):
    params = dict(scale=scale, bias=bias)
    return layers.GroupNorm().apply({"params": params}, x, film)


# function, and the shapes of its arguments
CASES = {
    "bias": (forms.add_bias, (2, 3, 4, 5), (5,)),
    "pixels": (
        lambda x: forms.repeat_pixels(x, jax.ShapeDtypeStruct((2, 3, 4, 5), x.dtype)),
        (2, 5),
    ),
    "group_norm": (group_norm, (2, 3, 4, 8), (2, 16), (8,), (8,)),
    "attention": (forms.attend, *[(2, 64, 2, 4)] * 3),
    "narrow": (partial(forms.conv3x3, stride=2), (2, 4, 2, 3), (3, 3, 3, 5)),
}


@pytest.mark.parametrize("name", CASES)
def test_both_forms_have_the_same_values_and_gradients(name):
    fn, *shapes = CASES[name]
    found = both_forms(fn, *(normal(i, *shape) for i, shape in enumerate(shapes)))
    for one, other in zip(*map(jax.tree.leaves, found), strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-5, atol=2e-5)


@pytest.mark.ci
@pytest.mark.parametrize(
    "net",
    [
        pytest.param(
            UNet(8, num_blocks=1, num_heads=2), id="unet", marks=pytest.mark.slow
        ),
        pytest.param(DiT(16, num_blocks=2, num_heads=2), id="dit"),
    ],
)
def test_networks_of_both_forms_agree(net):
    """Outputs and gradients in all parameters."""
    z, time, _ = arguments((2, 4, 4, 2))
    params = perturbed(net, z, time)
    fn = lambda params: net.apply({"params": params}, z, time)
    for one, other in zip(*map(jax.tree.leaves, both_forms(fn, params)), strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-4, atol=1e-4)


def kinds(fn, *inputs):
    return str(jax.make_jaxpr(lambda *inputs: fn(*inputs))(*inputs))


def test_the_platform_is_that_of_the_device_unless_it_is_given():
    x, bias = normal(0, 2, 3), normal(1, 3)
    assert platform.target() == CPU
    assert "dot_general" in kinds(forms.add_bias, x, bias)
    with platform.lowered_for(TPU):
        assert platform.target() == TPU
        assert "dot_general" not in kinds(forms.add_bias, x, bias)
    with jax.default_device("cpu"):
        assert platform.target() == CPU


@pytest.mark.parametrize(
    ("kind", "capability", "expected"),
    [
        ("gpu", "9.0", platform.Target("cuda", 256)),
        ("gpu", "12.0", platform.Target("cuda", 256)),
        ("gpu", "8.6", platform.Target("cuda", 128)),
        ("gpu", "7.5", platform.Target("cuda")),
        ("gpu", "gfx90a", platform.Target("rocm")),
        ("tpu", None, TPU),
    ],
)
def test_devices_say_what_they_take(kind, capability, expected, monkeypatch):
    device = SimpleNamespace(platform=kind, compute_capability=capability)
    monkeypatch.setattr(jax, "local_devices", lambda: [device])
    assert platform.target() == expected


@pytest.mark.parametrize(
    ("dtype", "features", "target", "expected"),
    [
        ("bfloat16", 64, platform.Target("cuda", 128), True),
        ("bfloat16", 256, platform.Target("cuda", 128), False),
        ("bfloat16", 12, platform.Target("cuda", 128), False),
        ("float32", 64, platform.Target("cuda", 128), False),
        ("bfloat16", 64, TPU, False),
    ],
)
def test_attention_is_fused_only_where_the_kernels_are(
    dtype, features, target, expected
):
    query = jax.ShapeDtypeStruct((2, 4, 1, features), dtype)
    with platform.lowered_for(target):
        assert not platform.takes_fused_attention(query)
        with platform.fused_attention():
            assert platform.takes_fused_attention(query) == expected
        with platform.fused_attention(allowed=False):
            assert not platform.takes_fused_attention(query)
