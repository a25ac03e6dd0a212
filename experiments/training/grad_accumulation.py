"""The gradient of a batch as the mean of those of its chunks, in the memory of one.

`optax.microbatching` has the same mean, and the same concatenation of what each example
gives. It loops by `lax.fori_loop` alone, and inside a loop of XLA a CPU runs on one
thread: 18 times the time of a step (docs/performance.md), which unrolling avoids. Nor
does it say to the function which chunk it is given, as the masks of dropout need.
`optax.MultiSteps` accumulates over steps, each of which would be a batch, log row and
random stream of its own here.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

ValueAndGrad = tuple[tuple[jax.Array, Any], Any]


def mean_of_parts(
    each: Callable[[Any, jax.Array], ValueAndGrad], batch: Any, count: int
) -> ValueAndGrad:
    """Computes ((mean value, per-example terms), mean gradients) over `count` parts.

    Part j has the examples j, j + count, j + 2 count, ..., so that each device, which
    holds neighbouring examples, works at every part.

    Args:
      each: `(part, j) -> ((mean value, terms [batch / count, ...]), gradients)`.
      batch: pytree of arrays [batch, ...].
      count: of parts; it divides the batch.

    Returns:
      What `each` gives of the whole batch, to rounding; terms in the batch's order.
    """

    def part(leaf: jax.Array) -> jax.Array:
        return leaf.reshape(-1, count, *leaf.shape[1:]).swapaxes(0, 1)

    def joined(leaf: jax.Array) -> jax.Array:
        return leaf.swapaxes(0, 1).reshape(-1, *leaf.shape[2:])

    def add(total: Any, numbered: Any) -> tuple[Any, Any]:
        (value, terms), gradients = each(*numbered)
        return jax.tree.map(jnp.add, total, (value, gradients)), terms

    parts = jax.tree.map(part, batch), jnp.arange(count)
    first = jax.tree.map(lambda leaf: leaf[0], parts)
    (value, _), gradients = jax.eval_shape(each, *first)
    zeros = jax.tree.map(
        lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), (value, gradients)
    )
    # XLA's loops on a CPU run on one thread, with slow convolutions
    unroll = count if jax.default_backend() == "cpu" else 1
    total, terms = jax.lax.scan(add, zeros, parts, unroll=unroll)
    value, gradients = jax.tree.map(lambda leaf: leaf / count, total)
    return (value, jax.tree.map(joined, terms)), gradients
