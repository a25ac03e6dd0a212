"""Tests whether a network uses its conditions, before the first step.

A label that is dropped on the way, or an embedding that nothing reads, raises no error
and shows in no loss curve. A network at initialization hides it: its output is zero for
every label. So layers that are zero are filled first, then the losses of a batch are
compared under its own labels and under others.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

LEAST_EFFECT = 1e-4
READ_AS = {"labels": "label", "conditions": "vector"}  # arguments of a network


def lifted(params: Any) -> Any:
    """Fills matrices that are all zero with numbers of variance 1 / fan-in.

    The numbers are a fixed hash of their place: random enough here, and compiled in a
    tenth of the time that a generator takes for each array.
    """

    def fill(leaf: jax.Array) -> jax.Array:
        if leaf.ndim < 2:
            return leaf
        place = jnp.arange(leaf.size, dtype=jnp.uint32).reshape(leaf.shape)
        mixed = (place + jnp.uint32(1)) * jnp.uint32(2654435761)
        mixed = (mixed ^ (mixed >> 15)) * jnp.uint32(2246822519)
        uniform = (mixed ^ (mixed >> 13)).astype(jnp.float32) * 2.0**-32
        fan_in = leaf.size // leaf.shape[-1]
        numbers = (12 / fan_in) ** 0.5 * (uniform - 0.5)
        return jnp.where(jnp.any(leaf != 0), leaf, numbers.astype(leaf.dtype))

    return jax.tree.map(fill, params)


def label_effect(
    losses_fn: Callable[[np.ndarray], Any], labels: np.ndarray, num_classes: int
) -> float:
    """Computes the largest relative change of an example's loss with its label.

    Args:
      losses_fn: losses [batch] for labels [batch], all else fixed.
      labels: of the batch.
      num_classes: the labels, the null label among them, are 0..num_classes.
    """
    other = ((labels + 1) % (num_classes + 1)).astype(labels.dtype)
    return _effect(losses_fn, labels, other)


def vector_effect(losses_fn: Callable[[np.ndarray], Any], vectors: np.ndarray) -> float:
    """Computes the largest relative change of an example's loss with its vector.

    Each entry by the root mean square of all, or by 1 where they are zeros.

    Args:
      losses_fn: losses [batch] for vectors [batch, k], all else fixed.
      vectors: of the batch.
    """
    step = np.sqrt(np.mean(np.square(vectors, dtype=np.float64))) or 1.0
    return _effect(losses_fn, vectors, vectors + vectors.dtype.type(step))


def _effect(
    losses_fn: Callable[[np.ndarray], Any], own: np.ndarray, other: np.ndarray
) -> float:
    own, changed = (np.asarray(losses_fn(given), float) for given in (own, other))
    return float(np.max(np.abs(changed - own) / np.maximum(np.abs(own), 1e-30)))


def warning(effect: float, name: str = "labels") -> str | None:
    """Returns a warning if the network ignores what the data condition on, else None.

    Args:
      effect: of changing it.
      name: of it, a key of `READ_AS`.
    """
    if not effect < LEAST_EFFECT:
        return None
    return (
        f"warning: the network ignores its {name}: changing them changes no loss by "
        f"more than {effect:.1e} of it; samples will look the same for all of them, "
        f"whatever the guidance. Does the network read `{READ_AS[name]}`?"
    )
