"""Batches, costs and 20-digit values that tests of couplings share."""

import jax
import numpy as np
import pytest

from diffusionflow import couplings, random
from tests.helpers import fewstep

VECTORS = fewstep.VECTORS["couplings"]
KEY = jax.random.key(0)
RNG = np.random.RandomState(0)
ONES = np.ones((4, 2), np.float32)
ZEROS = np.zeros(4, np.int32)
pair = jax.jit(lambda coupling, *arguments: coupling(*arguments))
plan = jax.jit(couplings.sinkhorn_plan, static_argnames="num_iterations")


@pytest.fixture(autouse=True)
def same_draws():
    """Whatever ran before."""
    RNG.seed(0)


def vectors(prefix):
    """`(inputs, value)` of the entries whose names begin so, numbers in float64."""

    def number(entry):
        if isinstance(entry, dict):
            return {name: number(part) for name, part in entry.items()}
        return np.array(entry, np.float64)[()]

    found = {name: entry for name, entry in VECTORS.items() if name.startswith(prefix)}
    assert found
    return {
        name: (number(entry["inputs"]), number(entry["value"]))
        for name, entry in found.items()
    }


def single(prefix):
    (entry,) = vectors(prefix).values()
    return entry


def batch(n, features=3, num_labels=4):
    x, eps = RNG.standard_normal((2, n, features)).astype(np.float32)
    keys = random.example_keys(0, np.arange(n))
    return keys, x, eps, RNG.randint(num_labels, size=n)


def squared_costs(x, eps):
    return ((x[:, None] - eps[None]) ** 2).sum(-1)
