"""Registered dataclasses as pytrees."""

import itertools

import jax
import jax.numpy as jnp
import pytest

from diffusionflow._dataclass import register, static
from tests.helpers.all_samplers import SAMPLERS
from tests.helpers.all_schedules import SCHEDULES


@register
class One:
    first: float = 1.0
    name: str = static(default="a")
    last: float = 2.0


@register
class Other:
    first: float = 1.0
    name: str = static(default="a")
    last: float = 2.0


def test_leaves_and_structure():
    value = One(3.0, "b", 4.0)
    leaves, structure = jax.tree_util.tree_flatten_with_path(value)
    assert [(jax.tree_util.keystr(path), leaf) for path, leaf in leaves] == [
        (".first", 3.0),
        (".last", 4.0),
    ]
    assert jax.tree.unflatten(structure, [5.0, 6.0]) == One(5.0, "b", 6.0)
    assert jax.tree.structure(One(0.0, "b", 0.0)) == structure
    with pytest.raises(AttributeError):
        value.first = 0.0


def test_structures_of_two_types_differ():
    """Equal ones would let `jit` run the program of another type."""
    assert jax.tree.structure(One()) != jax.tree.structure(Other())
    assert jax.tree.structure(One()) != jax.tree.structure(One(name="b"))
    values = [*SCHEDULES.values(), *(entry.sampler for entry in SAMPLERS.values())]
    for first, second in itertools.combinations(values, 2):
        if type(first) is not type(second):
            assert jax.tree.structure(first) != jax.tree.structure(second)


def test_numbers_are_data_and_names_are_program():
    traces = []

    @jax.jit
    def total(value):
        traces.append(value.name)
        return value.first + jnp.asarray(value.last)

    assert total(One(1.0, "a", 2.0)) == 3 and total(One(2.0, "a", 5.0)) == 7
    assert total(One(1.0, "b", 2.0)) == 3
    assert traces == ["a", "b"]
    slopes = jax.grad(total)(One(1.0))
    assert slopes == One(1.0, "a", 1.0)
