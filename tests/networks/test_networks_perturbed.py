"""Perturbed networks: identity when nothing is changed, and the limits of a change."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusionflow.networks import (
    DiT,
    ResidualMLP,
    UNet,
    blurred_attention,
    identity_attention,
    skipped_layers,
    unet,
)
from diffusionflow.networks import perturbed as perturbing
from tests.helpers.networks import arguments, fast, perturbed

DIT = DiT(features=16, num_blocks=2, num_heads=2, num_classes=3)
UNET = UNet(channels=8, num_blocks=1, num_heads=2, num_classes=3, multipliers=(1,))
NETS = {"dit": (DIT, "block_1"), "unet": (UNET, "middle_attention")}
SHAPE = (2, 8, 4, 3)


def applied(apply_fn, net, shape=SHAPE):
    inputs = arguments(shape)
    variables = {"params": perturbed(net, *inputs)}
    return np.asarray(fast(apply_fn)(variables, *inputs))


@pytest.mark.ci
@pytest.mark.parametrize("name", NETS)
def test_each_change_changes_and_none_changes_nothing(name):
    net, layer = NETS[name]
    plain = applied(net.apply, net)
    for change in (identity_attention, blurred_attention, skipped_layers):
        assert np.abs(applied(change(net, [layer]), net) - plain).max() > 1e-3
    same = applied(blurred_attention(net, [layer], std=0.0), net)
    np.testing.assert_allclose(same, plain, rtol=1e-4, atol=1e-5)


@pytest.mark.ci
@pytest.mark.parametrize("name", NETS)
def test_an_unperturbed_network_is_the_same_program(name):
    """Also after a perturbed one was traced, and inside such a trace's function."""
    net, layer = NETS[name]
    inputs = arguments(SHAPE)
    variables = jax.eval_shape(net.init, jax.random.key(0), *inputs)
    program = lambda: str(jax.make_jaxpr(net.apply)(variables, *inputs))
    before = program()
    jax.eval_shape(identity_attention(net, [layer]), variables, *inputs)
    assert program() == before


@pytest.mark.ci
@pytest.mark.parametrize("name", NETS)
def test_of_one_token_every_attention_is_the_identity(name):
    net, layer = NETS[name]
    shape = {"dit": (2, 2, 2, 3), "unet": (2, 1, 1, 3)}[name]
    plain = applied(net.apply, net, shape)
    for change in (identity_attention, blurred_attention):
        np.testing.assert_allclose(
            applied(change(net, [layer]), net, shape), plain, rtol=1e-4, atol=1e-5
        )


def test_a_skipped_block_is_a_network_without_it():
    inputs = arguments(SHAPE)
    params = perturbed(DIT, *inputs)
    one = DiT(features=16, num_blocks=1, num_heads=2, num_classes=3)
    rest = {name: part for name, part in params.items() if name != "block_1"}
    ours = fast(skipped_layers(DIT, ["block_1"]))({"params": params}, *inputs)
    theirs = fast(one.apply)({"params": rest}, *inputs)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.ci
def test_infinite_blur_is_the_mean_query():
    query = jax.random.normal(jax.random.key(0), (2, 12, 2, 3))
    mean = jnp.broadcast_to(query.mean(1, keepdims=True), query.shape)
    blurred = perturbing._blurred(query, (4, 3), np.inf)
    np.testing.assert_allclose(blurred, mean, atol=1e-6)
    grid = np.zeros((1, 9, 1, 1), np.float32)
    grid[0, 4] = 1.0
    blurred = perturbing._blurred(jnp.asarray(grid), (9,), 1.5)
    weight = lambda i, j: np.exp(-((i - j) ** 2) / (2 * 1.5**2))
    row = [weight(i, 4) / sum(weight(i, j) for j in range(9)) for i in range(9)]
    np.testing.assert_allclose(blurred[0, :, 0, 0], row, rtol=1e-5)


@pytest.mark.ci
def test_blurred_queries_give_all_pixels_one_attention():
    """So that the layer adds one vector to all of them."""
    layer, x = unet.SelfAttention(2, jnp.float32), arguments((1, 2, 3, 8))[0]
    variables = {"params": perturbed(layer, x)}
    added = fast(blurred_attention(layer, [""]))(variables, x) - x
    np.testing.assert_allclose(added, added[:, :1, :1] + 0 * x, atol=1e-5)
    plain = fast(layer.apply)(variables, x) - x
    assert np.abs(plain - plain[:, :1, :1]).max() > 1e-2


@pytest.mark.ci
def test_recomputed_blocks_are_perturbed_alike():
    net = dataclasses.replace(DIT, remat="nothing_saveable")
    ours, theirs = (
        applied(identity_attention(net, ["block_0"]), net) for net in (net, DIT)
    )
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.ci
def test_of_scanned_blocks_all_are_skipped():
    """As the same blocks that are not scanned, each skipped by its name."""
    inputs, net = arguments(SHAPE), dataclasses.replace(DIT, scan=True)
    params = perturbed(DIT, *inputs)
    blocks = [params[f"block_{i}"] for i in range(DIT.num_blocks)]
    others = {name: params[name] for name in params if not name.startswith("block_")}
    stacked = others | {
        "blocks": jax.tree.map(lambda *leaves: np.stack(leaves), *blocks)
    }
    ours = skipped_layers(net, ["blocks"])({"params": stacked}, *inputs)
    names = [f"block_{i}" for i in range(DIT.num_blocks)]
    plain = skipped_layers(DIT, names)({"params": params}, *inputs)
    np.testing.assert_allclose(ours, plain, rtol=1e-5, atol=1e-6)
    assert np.abs(ours - net.apply({"params": stacked}, *inputs)).max() > 1e-3


def test_refusals():
    inputs = arguments(SHAPE)
    variables = jax.eval_shape(DIT.init, jax.random.key(0), *inputs)
    with pytest.raises(ValueError, match="'block_7' is no layer .* block_0, block_1"):
        jax.eval_shape(skipped_layers(DIT, ["block_7"]), variables, *inputs)
    mlp, inputs = ResidualMLP(features=8), (jnp.ones((1, 2)), jnp.ones(1))
    variables = jax.eval_shape(mlp.init, jax.random.key(0), *inputs)
    with pytest.raises(ValueError, match="known: none"):
        jax.eval_shape(skipped_layers(mlp, ["block_0"]), variables, *inputs)
    with pytest.raises(ValueError, match="layers='block_0': must be names"):
        skipped_layers(DIT, "block_0")
    with pytest.raises(ValueError, match="std=-1: must be at least 0"):
        blurred_attention(DIT, ["block_0"], std=-1)
