"""Leaves by their paths: `runtime/pytrees.py`."""

from typing import Any, NamedTuple

import jax.numpy as jnp

from experiments.runtime import pytrees


class Pair(NamedTuple):
    b: Any
    a: Any


def test_leaves_are_named_by_their_paths_in_order():
    tree = {"a": [jnp.ones(2), 3], "b": {"c": jnp.array(3)}}
    assert list(pytrees.named_leaves(tree)) == ["a/0", "a/1", "b/c"]


def test_a_named_tuple_and_the_dict_that_orbax_makes_of_it_have_the_same_names():
    pair = Pair(jnp.zeros(2), {"k": jnp.zeros(3)})
    names = pytrees.named_leaves(pair).keys()
    assert names == pytrees.named_leaves({"b": 1, "a": {"k": 2}}).keys()
    assert pytrees.first_difference(pair, pair._asdict()) is None


def test_the_first_difference_is_the_one_named():
    a = {"a": jnp.zeros(2), "b": jnp.zeros(3)}
    b = {"a": jnp.zeros(4), "b": jnp.zeros(5)}
    assert pytrees.first_difference(a, a) is None
    assert pytrees.first_difference(a, b).startswith("a has shape (2,)")
