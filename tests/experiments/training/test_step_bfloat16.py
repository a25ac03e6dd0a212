"""Training with products in bfloat16: `training/step.py`."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params

from diffusionflow import networks
from experiments.data import Examples
from experiments.runtime import rng, sharding
from experiments.training import running_metrics, step
from experiments.training.trainer import Trainer
from tests.helpers import tiny

KEY = rng.stream(0, rng.TRAIN)
EXACT = {"float32", "int32", "uint32", "uint8", "bool", "key<fry>"}
PRODUCTS = ("dot_general", "conv_general_dilated")


def equations(jaxpr):
    """All equations of a jaxpr, inner ones included."""
    for equation in jaxpr.eqns:
        yield equation
        for inner in jaxprs_in_params(equation.params):
            yield from equations(inner)


@pytest.mark.slow
def test_bfloat16_is_of_products_alone(standard_promotion):
    """Sums, roots, exponentials and the whole of time are float32, and so is the state.

    Of the ways that a number is made, bfloat16 may have products, casts, copies, and
    the sum of a product and its bias.
    """
    config = tiny.config(objective__schedule="cosine")
    trainer = Trainer(config)
    net = networks.UNet(channels=8, dtype="bfloat16", attention_resolutions=(4,))
    model = trainer.model._replace(net=net, event_shape=(8, 8, 1))
    recipe = trainer.recipe._replace(model=model)
    before = jax.eval_shape(functools.partial(step.init, recipe=recipe), KEY)
    batch = Examples(
        jax.ShapeDtypeStruct((16, 8, 8, 1), jnp.float32),
        jax.ShapeDtypeStruct((16,), jnp.int32),
    )
    train = functools.partial(step.train_step, recipe=recipe)
    jaxpr, (after, loss) = jax.make_jaxpr(train, return_shape=True)(before, batch, KEY)
    assert loss.dtype == "float32"
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(after)} <= EXACT
    rough, products, summed = set(), [], []
    for equation in equations(jaxpr):
        types = [str(value.aval.dtype) for value in equation.outvars]
        if "bfloat16" in types:
            rough.add(equation.primitive.name)
        if "bfloat16" in types and equation.primitive.name == "reduce_sum":
            summed.append(equation.invars[0].aval.size / equation.outvars[0].aval.size)
        if equation.primitive.name in PRODUCTS:
            products.append(str(equation.invars[0].aval.dtype))
    assert products.count("bfloat16") > 100
    moves = {"reshape", "transpose", "broadcast_in_dim", "concatenate", "pad", "slice"}
    inside = {"jit", "pjit", "custom_jvp_call", "copy"}
    allowed = moves | inside | {"add", "add_any", "mul", "convert_element_type"}
    assert rough <= allowed | {"reduce_sum", "split", "rev"} | set(PRODUCTS)
    assert max(summed) <= 4  # pixels that one pixel was repeated to


@pytest.mark.slow
def test_training_in_bfloat16_ends_near_that_in_float32(standard_promotion):
    """200 steps: finite, and the mean loss of the last 100 within 5 %."""
    means = []
    for dtype in ("float32", "bfloat16"):
        config = tiny.config(num_steps=200, batch_size=128, log__every=100)
        with config.unlocked():
            config.network.dtype = dtype
        trainer = Trainer(config)
        state = trainer.init()
        for _, batch in zip(range(200), trainer.batches(0), strict=False):
            placed = sharding.place(trainer.mesh, batch)
            state, loss = trainer.step_fn(state, placed, trainer.train_key)
            loss.block_until_ready()  # many under way may lock a CPU of eight devices
        assert int(state.faults.count) == 0
        means.append(running_metrics.averages(state.sums)["loss"])
    assert int(state.sums.steps) == 100
    assert means[0] != means[1]
    np.testing.assert_allclose(means[1], means[0], rtol=0.05)
