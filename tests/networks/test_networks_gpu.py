"""On a GPU: its forms against those of a CPU, and cuDNN's attention against ours."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusionflow.networks import DiT, UNet, forms, platform
from tests.helpers.networks import arguments, perturbed

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("features", [64, 128])
def test_fused_attention_is_attention(features):
    """Values and gradients, to the rounding of bfloat16."""
    keys = jax.random.split(jax.random.key(0), 4)
    shape = (2, 256, 4, features)
    *inputs, probe = (
        jax.random.normal(key, shape).astype(jnp.bfloat16) for key in keys
    )

    def run(allowed):
        def attended(*inputs):
            with platform.fused_attention(allowed):
                return forms.attend(*inputs)

        def both(*inputs):
            out, pull = jax.vjp(attended, *inputs)
            return out, *pull(probe)

        program = jax.jit(both).lower(*inputs).compile()
        assert ("fmha" in program.as_text()) == allowed
        return program(*inputs)

    for one, other in zip(run(True), run(False), strict=True):
        one, other = (np.asarray(each, np.float64) for each in (one, other))
        assert np.abs(one - other).max() < 0.02 * np.abs(other).max()


@pytest.mark.parametrize(
    "net",
    [UNet(32, num_blocks=1, num_heads=2), DiT(64, num_blocks=2, num_heads=2)],
    ids=["unet", "dit"],
)
def test_networks_agree_with_a_cpu(net):
    """Outputs and gradients in all parameters, in float32 throughout."""
    z, time, _ = arguments((4, 8, 8, 3))
    params = perturbed(net, z, time)

    def loss(params, z, time):
        return (net.apply({"params": params}, z, time) ** 2).mean()

    found = []
    for device in (jax.devices("gpu")[0], jax.devices("cpu")[0]):
        given = jax.device_put((params, z, time), device)
        with jax.default_device(device), jax.default_matmul_precision("highest"):
            program = jax.jit(jax.value_and_grad(lambda *given: loss(*given)))
            found.append(jax.device_get(program(*given)))
    for one, other in zip(*map(jax.tree.leaves, found), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-5)
