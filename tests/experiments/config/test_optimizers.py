"""Learning rate, clipping and weight decay: `config/optimizers.py`."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from diffusionflow.networks import DiT
from experiments.config import optimizers
from experiments.runtime.errors import UsageError
from tests.helpers.networks import arguments

OPTIMIZER = dict(
    name="adamw(b1=0.9, b2=0.99, weight_decay=0.0)",
    learning_rate=0.1,
    warmup_steps=4,
    schedule="constant",
    clip_norm=0.0,
)


def built(section):
    rate = optimizers.learning_rate(section, num_steps=10)
    return optimizers.optimizer(section, 10, rate)


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_the_learning_rate_warms_up_to_its_peak(schedule):
    rate = optimizers.learning_rate(OPTIMIZER | {"schedule": schedule}, num_steps=10)
    values = np.array([rate(step) for step in range(11)])
    np.testing.assert_allclose(values[:5], [0.02, 0.04, 0.06, 0.08, 0.1], rtol=1e-5)
    if schedule == "constant":
        np.testing.assert_allclose(values[5:], 0.1, rtol=1e-6)
    else:
        phase = np.arange(1, 7) / 6
        cosine = 0.05 * (1 + np.cos(np.pi * phase))
        np.testing.assert_allclose(values[5:], cosine, rtol=1e-4, atol=1e-8)


def test_a_warm_up_longer_than_the_run_is_refused():
    with pytest.raises(
        UsageError, match=r"warmup_steps=4: must be in \[0, num_steps=4"
    ):
        optimizers.learning_rate(OPTIMIZER, num_steps=4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("b1=1.0", r"b1=1.0: must be in \[0, 1\)"),
        ("b2=-0.1", r"b2=-0.1: must be in \[0, 1\)"),
        ("weight_decay=-1.0", "weight_decay=-1.0: must be at least 0"),
    ],
)
def test_arguments_out_of_bounds_are_refused(arguments, message):
    section = OPTIMIZER | dict(name=f"adamw({arguments})")
    with pytest.raises(UsageError, match=message):
        built(section)


def test_the_optimizer_clips_and_decays_matrices_only(standard_promotion):
    params = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}
    zero = jax.tree.map(jnp.zeros_like, params)
    section = OPTIMIZER | dict(warmup_steps=0, name="adamw(b1=0.9, weight_decay=0.5)")
    optimizer = built(section)
    updates, _ = optimizer.update(zero, optimizer.init(params), params)
    np.testing.assert_allclose(updates["kernel"], -0.1 * 0.5, rtol=1e-6)
    np.testing.assert_allclose(updates["bias"], 0)
    clipping = built(section | {"clip_norm": 1.0})
    gradients = jax.tree.map(lambda leaf: 1e3 * jnp.ones_like(leaf), params)
    _, state = clipping.update(gradients, clipping.init(params), params)
    mean = jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(state[1][0].mu)])
    np.testing.assert_allclose(jnp.linalg.norm(mean), 0.1, rtol=1e-5)  # (1 - b1) * 1


@pytest.mark.parametrize("factor", [0.999, 1.0, 30.0])  # norm over the bound
def test_clipping_is_optax_s_with_one_division(factor):
    leaves = {"kernel": np.array([[3.0, -1.0]], np.float32), "bias": np.ones(6)}
    gradients = jax.tree.map(lambda leaf: jnp.float32(factor / 4 * leaf), leaves)
    clip = optimizers.clip_by_global_norm(1.0)
    clipped, _ = clip.update(gradients, optax.EmptyState())
    expected, _ = optax.clip_by_global_norm(1.0).update(gradients, optax.EmptyState())
    chex.assert_trees_all_close(clipped, expected, rtol=1e-6)
    traced = jax.make_jaxpr(clip.update)(gradients, optax.EmptyState())
    divisions = [each for each in traced.eqns if each.primitive.name == "div"]
    assert [each.outvars[0].aval.shape for each in divisions] == [()]


@pytest.mark.ci
def test_weight_decay_is_the_same_for_scanned_blocks():
    inputs = arguments((2, 4, 4, 1))
    tiny = dict(features=16, num_blocks=2, num_heads=2, num_classes=3)
    shapes = lambda net: jax.eval_shape(net.init, jax.random.key(0), *inputs)["params"]
    single, scanned = (
        optimizers.decayed(shapes(DiT(**tiny, scan=s))) for s in (False, True)
    )
    assert scanned["blocks"] == single["block_0"] == single["block_1"]
    assert scanned["blocks"]["mlp_in"] == {"bias": False, "kernel": True}
