"""Pytrees compared."""

import jax
import numpy as np


def same(first, second):
    """Whether two pytrees are equal bit for bit."""
    equal = lambda a, b: np.asarray(a).tobytes() == np.asarray(b).tobytes()
    return all(jax.tree.leaves(jax.tree.map(equal, first, second)))
