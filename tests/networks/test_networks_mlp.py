"""The residual MLP: the call of the U-Net, on vectors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusionflow.networks import ResidualMLP
from tests.helpers.networks import arguments, fast, perturbed

NET = ResidualMLP(features=16, num_blocks=2, num_classes=3)


@pytest.mark.ci
@pytest.mark.parametrize("shape", [(1, 2), (3, 5), (4, 4), (2, 1)])
def test_output_is_like_z_and_zero_at_first(shape):
    z, time, label = arguments(shape)
    out, _ = fast(NET.init_with_output)(jax.random.key(0), z, time, label)
    assert out.shape == z.shape and out.dtype == z.dtype
    np.testing.assert_array_equal(out, 0)


@pytest.mark.ci
def test_labels_times_and_examples_matter_and_do_not_mix():
    z, time, label = inputs = arguments((4, 4))
    variables = {"params": perturbed(NET, *inputs)}
    fn = fast(lambda z, time, label: NET.apply(variables, z, time, label))
    whole, order = fn(*inputs), jnp.array([2, 0, 3, 1])
    permuted = fn(z[order], time[order], label[order])
    np.testing.assert_allclose(permuted, whole[order], rtol=1e-5, atol=1e-5)
    changed = np.abs(fn(z.at[1].add(1.0), time, label) - whole).max(1)
    assert changed[1] > 0.1 and changed[[0, 2, 3]].max() < 1e-5
    for moved in (z, time * 0.9, label), (z, time, (label + 1) % 3):
        assert np.abs(whole - fn(*moved)).max() > 1e-2
    null = fn(z, time, jnp.full(4, NET.null_label))
    np.testing.assert_allclose(fn(z, time, None), null, rtol=1e-5, atol=1e-5)


@pytest.mark.ci
def test_bfloat16_is_close():
    inputs = arguments((8, 3))
    variables = {"params": perturbed(NET, *inputs)}
    out = fast(NET.apply)(variables, *inputs)
    rough = fast(NET.clone(dtype="bfloat16").apply)(variables, *inputs)
    error = np.abs(out - rough).max() / np.abs(out).max()
    assert rough.dtype == jnp.float32 and 1e-4 < error < 0.05


@pytest.mark.parametrize("shape", [(1, 2, 2, 1), (1, 2, 2), (3,)])
def test_what_is_no_vector_is_refused(shape):
    with pytest.raises(ValueError, match="takes vectors .*flatten the data, or choose"):
        NET.init(jax.random.key(0), jnp.zeros(shape), jnp.zeros(1))
