"""Each layer against its definition or the plain layer of Flax."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusionflow.networks import forms, layers
from tests.helpers.networks import fast


def normal(key, *shape):
    return jax.random.normal(jax.random.key(key), shape)


def convolved(x, kernel, stride):
    """The definition, in float64."""
    x, kernel = np.asarray(x, np.float64), np.asarray(kernel, np.float64)
    sizes = x.shape[1:-1]
    padded = np.pad(x, ((0, 0), *[(1, 1)] * len(sizes), (0, 0)))
    out = 0.0
    for taps in np.ndindex(kernel.shape[:-2]):
        window = [slice(i, i + size) for i, size in zip(taps, sizes, strict=True)]
        out = out + padded[:, *window] @ kernel[taps]
    return out[:, *[slice(None, None, stride)] * len(sizes)]


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(
    "size",
    [
        *[(1, 1), (1, 4), (2, 2), (6, 2), (2, 3), (4, 6)],
        *[(1,), (2,), (7,)],
        *[(1, 1, 1), (2, 2, 2), (1, 4, 3), (3, 3, 3), (2, 4, 5)],
    ],
)
def test_conv3x3_is_its_definition(size, stride):
    """Maps smaller than the kernel take another form."""
    x, kernel = normal(0, 2, *size, 3), normal(1, *(3 for _ in size), 3, 5)
    out = fast(partial(forms.conv3x3, stride=stride))(x, kernel)
    np.testing.assert_allclose(out, convolved(x, kernel, stride), atol=2e-5)


@pytest.mark.parametrize("size", [(3,), (2, 3), (2, 1, 3)])
def test_upsampled_pixels_are_those_they_lie_in(size):
    x = np.asarray(normal(0, 2, *size, 3))
    out = layers.upsample(x)
    assert out.shape == (2, *(2 * n for n in size), 3)
    for place in np.ndindex(out.shape[1:-1]):
        source = tuple(n // 2 for n in place)
        np.testing.assert_array_equal(out[:, *place], x[:, *source])


def test_conv_module_adds_its_bias():
    conv = layers.Conv3x3(5)
    x, kernel, bias = normal(0, 2, 4, 4, 3), normal(1, 3, 3, 3, 5), normal(2, 5)
    out = conv.apply({"params": dict(kernel=kernel, bias=bias)}, x)
    expected = convolved(x, kernel, 1) + np.asarray(bias)
    np.testing.assert_allclose(out, expected, atol=2e-5)


@pytest.mark.ci
def test_pointwise_is_dense():
    ours, plain = layers.Pointwise(5), nn.Dense(5)
    x, params = normal(0, 2, 3, 4, 6), dict(kernel=normal(1, 6, 5), bias=normal(2, 5))
    value = lambda layer, params: (jnp.sin(layer.apply({"params": params}, x))).sum()
    for ours_, plain_ in zip(
        jax.tree.leaves(jax.value_and_grad(value, argnums=1)(ours, params)),
        jax.tree.leaves(jax.value_and_grad(value, argnums=1)(plain, params)),
        strict=True,
    ):
        np.testing.assert_allclose(ours_, plain_, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("tokens", [5, 64])  # on a CPU another order from 64 on
def test_attend_is_its_definition(tokens):
    query, key, value = (3 * normal(i, 2, tokens, 3, 4) for i in range(3))
    q, k, v = (np.asarray(x, np.float64) for x in (query, key, value))
    logits = np.einsum("bqhf,bkhf->bhqk", q, k) / 2
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    expected = np.einsum("bhqk,bkhf->bqhf", weights, v)
    np.testing.assert_allclose(forms.attend(query, key, value), expected, atol=1e-4)


@pytest.mark.parametrize("size", [(6,), (6, 5), (5, 6, 7)])
def test_convolution_moves_with_its_input(size):
    """Translation equivariance, of what stays away from the border."""
    x = normal(0, 2, *(n - 3 for n in size), 3)
    kernel = normal(1, *(3 for _ in size), 3, 5)
    padded = lambda low: jnp.pad(x, ((0, 0), *[(low, 3 - low)] * len(size), (0, 0)))
    axes = tuple(range(1, len(size) + 1))
    conv = fast(forms.conv3x3)
    moved = jnp.roll(conv(padded(1), kernel), [1] * len(size), axes)
    np.testing.assert_allclose(conv(padded(2), kernel), moved, atol=2e-5)


@pytest.mark.ci
@pytest.mark.parametrize(
    "shape",
    [(2, 4, 6, 16), (8, 8, 8, 8), (1, 2, 2, 3), (2, 6, 8), (2, 2, 3, 4, 8)],
)
def test_group_norm_is_that_of_flax(shape):
    """Value, and gradients in x, scale and bias."""
    channels = shape[-1]
    plain = nn.GroupNorm(num_groups=layers.num_groups(channels), epsilon=1e-6)
    ours = layers.GroupNorm(epsilon=1e-6)
    x = 0.5 + 2 * normal(0, *shape)
    params = dict(scale=1 + 0.3 * normal(1, channels), bias=normal(2, channels))
    probe = normal(3, *shape) / np.sqrt(np.prod(shape))

    @fast
    def run(params, x):
        def both(layer):
            out, pull = jax.vjp(lambda p, x: layer.apply({"params": p}, x), params, x)
            return jax.tree.leaves((out, pull(probe)))

        return both(ours), both(plain)

    for one, other in zip(*run(params, x), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-6)


@pytest.mark.ci
def test_group_norm_film_scales_and_shifts():
    x, film = normal(0, 2, 4, 4, 8), normal(1, 2, 16)
    norm = layers.GroupNorm()
    params = dict(scale=normal(2, 8), bias=normal(3, 8))
    plain = fast(norm.apply)({"params": params}, x)
    scale, shift = film[:, None, None, :8], film[:, None, None, 8:]
    expected = plain * (1 + scale) + shift
    out = fast(norm.apply)({"params": params}, x, film)
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-5)


def test_group_norm_statistics_are_float32():
    """A mean that bfloat16 cannot sum: 1/256 of it would be lost at 4096 terms."""
    x = (1 + 0.05 * normal(0, 1, 64, 64, 4)).astype(jnp.bfloat16)
    params = dict(scale=jnp.ones(4), bias=jnp.zeros(4))
    out = fast(layers.GroupNorm().apply)({"params": params}, x)
    assert out.dtype == jnp.float32
    exact = np.asarray(x, np.float64)
    exact = (exact - exact.mean()) / np.sqrt(exact.var() + 1e-6)
    np.testing.assert_allclose(out, exact, atol=2e-3)


@pytest.mark.parametrize(
    ("channels", "groups"), [(3, 1), (4, 1), (8, 2), (12, 3), (96, 24), (384, 32)]
)
def test_number_of_groups(channels, groups):
    assert layers.num_groups(channels) == groups
