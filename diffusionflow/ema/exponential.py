"""Exponential moving averages (EMA) of parameters."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from diffusionflow._dataclass import check_bound


def init(params: Any) -> Any:
    """Initialises the average, before the first update.

    Args:
      params: pytree of arrays.

    Returns:
      A float32 copy.
    """
    return jax.tree.map(lambda leaf: jnp.array(leaf, jnp.float32), params)


def decay(num_updates: ArrayLike, *, limit: float, warmup: float = 10.0) -> Array:
    """Computes the decay with warm-up, `min(limit, (1 + n) / (warmup + n))`.

    The memory is short early, and the decay is `limit` in the end.

    Args:
      num_updates: updates n made before this one, any shape.
      limit: the final decay, in [0, 1).
      warmup: at least 1; the average spans about a `1 / (warmup - 1)`-th of the run
        until `limit` is reached. 1 means `limit` from the start.

    Returns:
      float32 of the shape of `num_updates`.

    Raises:
      ValueError: `limit` or `warmup` is out of bounds.

    Example:
      >>> print(decay(0, limit=0.999), decay(10**6, limit=0.999))
      0.1 0.999
    """
    check_bound("limit", limit, lambda limit: 0 <= limit < 1, "in [0, 1)")
    check_bound("warmup", warmup, lambda warmup: warmup >= 1, "at least 1")
    n = jnp.asarray(num_updates).astype(jnp.float32)
    return jnp.minimum(limit, (1 + n) / (warmup + n))


def update(average: Any, params: Any, decay: ArrayLike) -> Any:
    """Updates to `average + (1 - decay) (params - average)`, per optimizer update.

    Args:
      average: float32 pytree, from `init` or an earlier update.
      params: pytree of the same structure, any floating type.
      decay: scalar in [0, 1].

    Returns:
      float32 pytree.
    """
    rate = 1 - decay  # of a number of Python in float64: 1 - 0.99999 has its digits
    return toward(average, params, jnp.asarray(rate, jnp.float32))


def toward(average: Any, params: Any, rate: Array) -> Any:
    """Returns `average + rate (params - average)`, float32; `rate` a float32 scalar."""
    step = lambda old, new: old + rate * (new.astype(jnp.float32) - old)
    return jax.tree.map(step, average, params)
