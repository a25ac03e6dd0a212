"""The size of large networks before they are compiled: `benchmarks/budget.py`."""

import functools

import jax
import pytest

from benchmarks import budget
from experiments import step

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
