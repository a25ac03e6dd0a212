"""The size of large networks before they are compiled: `benchmarks/budget.py`."""

import functools

import jax
import pytest

from benchmarks import budget
from configs import digits
from experiments.runtime import sharding
from experiments.training import step
from experiments.training.trainer import Trainer

# at most: parameters, equations of the step, share of the stored bytes left by remat
BUDGETS = {
    "cifar10": dict(parameters=60e6, equations=35_000, stored=0.2),
    "imagenet64": dict(parameters=300e6, equations=45_000, stored=0.2),
    "dit_b": dict(parameters=140e6, equations=25_000, stored=0.2),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", BUDGETS)
def test_large_networks_stay_within_their_budget(name, standard_promotion):
    allowed = BUDGETS[name]
    recipe = budget.large(name, "float32", "", batch_size=8)
    state, batch, key = budget.shapes(recipe)
    count = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    assert 0.9 * allowed["parameters"] < count < allowed["parameters"]
    train = functools.partial(step.train_step, recipe=recipe)
    jaxpr = jax.make_jaxpr(train)(state, batch, key)
    assert budget.num_equations(jaxpr) < allowed["equations"]
    less = budget.large(name, "float32", "nothing_saveable", batch_size=8)
    stored = budget.stored_bytes(less) / budget.stored_bytes(recipe)
    assert stored < allowed["stored"]


@pytest.mark.slow
def test_the_shipped_step_stays_within_its_memory(standard_promotion):
    """The old state becomes the new one, and temporaries are a few activations."""
    trainer = Trainer(digits.get_config())
    state, key = trainer.abstract_state, trainer.train_key
    batch = sharding.place(trainer.mesh, next(iter(trainer.batches(0))))
    memory = trainer.step_fn.lower(state, batch, key).compile().memory_analysis()
    kept = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
    assert kept <= memory.alias_size_in_bytes
    assert memory.argument_size_in_bytes < 1.1 * kept
    assert memory.temp_size_in_bytes < 100 * budget.MIB
