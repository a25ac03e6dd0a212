"""Exact optimal assignment, by SciPy on the host."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from diffusionflow import predictions
from diffusionflow._dataclass import is_traced, register, static
from diffusionflow.couplings.base import Coupling, check_group, in_groups, joined


@register
class Assignment(Coupling):
    """Optimal pairs: the permutation inside groups with the least `sum |x - eps|^2`.

    Groups are `group` consecutive examples of the batch: neither its size nor the
    number of devices changes the pairs, as long as they cut it between groups. Up to
    `group` examples are one group; more must be a whole number of them. The optimum is
    computed on the host in float64 from the numbers themselves, so it is the same
    inside and outside of `jit`, and nothing is drawn.

    An example that is not finite gets some noise that the others leave.

    Args:
      group: number of examples that are matched with one another; O(group^3): some
        milliseconds for 256, some tenths of a second for 1024.

    Raises:
      ValueError: `group` is less than 1, or, in a call, does not divide the batch.

    Source: Pooladian et al. 2023, arXiv 2304.14772, and Tong et al. 2023,
    arXiv 2302.00482, minibatch optimal transport; there pairs are drawn from the plan
    with replacement.

    Example:
      >>> x, eps = jnp.array([1.0, -1.0, 3.0]), jnp.array([-2.0, 2.0, 0.5])
      >>> pairs = Assignment()(None, x, eps)
      >>> print(pairs.eps, pairs.index)
      [ 0.5 -2.   2. ] [2 0 1]
      >>> print(Assignment()(None, x, eps, jnp.array([0, 0, 1])).eps)  # inside labels
      [ 2.  -2.   0.5]
    """

    group: int = static(default=256)

    def __post_init__(self) -> None:
        check_group(self.group)

    def permutation(
        self, key: Array | None, x: Array, eps: Array, labels: Array | None
    ) -> Array:
        """Finds the optimal permutation."""
        del key
        if labels is None:
            labels = jnp.zeros(len(x), jnp.int32)
        labels, x, eps = in_groups(self.group, labels, x, eps)
        match = lambda labels, *pair: _each(_match, labels.shape, labels, *pair)
        return joined(_on_host(match, labels.shape, labels, x, eps))


def assign(cost: Array) -> Array:
    """Solves assignment problems: the permutation with the least `sum cost[i, p(i)]`.

    By SciPy on the host, in float64; it works under `jit` and `vmap`, without
    derivatives.

    Args:
      cost: `[*batch, n, n]`, finite. (A traced entry that is not counts as 0.)

    Returns:
      int32 `[*batch, n]`, the column of each row.

    Raises:
      ValueError: `cost` is not of floating numbers, not square, or not finite.

    Example:
      >>> print(assign(jnp.array([[1.0, 2.0], [1.0, 4.0]])))
      [1 0]
    """
    cost = predictions.as_data(cost, "cost")
    if cost.ndim < 2 or cost.shape[-1] != cost.shape[-2]:
        raise ValueError(f"cost of shape {cost.shape}: must be [*batch, n, n]")
    if not is_traced(cost) and not (finite := np.isfinite(np.asarray(cost))).all():
        raise ValueError(
            f"cost: {(~finite).sum():,} of {finite.size:,} entries are not finite: "
            "must be; write a large cost for a pair that may not be"
        )
    solve = lambda cost: _each(_solve, cost.shape[:-1], cost)
    return _on_host(solve, cost.shape[:-1], cost)


def _match(labels: np.ndarray, x: np.ndarray, eps: np.ndarray) -> np.ndarray:
    """Finds the optimal noise of every example of one group, inside labels."""
    index = np.empty(len(x), np.int32)
    for label in np.unique(labels):
        (rows,) = np.nonzero(labels == label)
        # of |x - eps|^2 the rest is the same for every permutation
        index[rows] = rows[_solve(-x[rows].astype(np.float64) @ eps[rows].T)]
    return index


def _solve(cost: np.ndarray) -> np.ndarray:
    from scipy.optimize import linear_sum_assignment  # comes with jax

    usable = np.nan_to_num(cost, nan=0.0, posinf=0.0, neginf=0.0)
    return linear_sum_assignment(usable)[1]


def _each(fn: Callable[..., np.ndarray], shape: tuple[int, ...], *arrays: Any) -> Any:
    """Applies `fn` to each problem of a batch, and returns int32 of `shape`."""
    found = np.empty(shape, np.int32)
    for place in np.ndindex(shape[:-1]):
        found[place] = fn(*(array[place] for array in arrays))
    return found


def _on_host(fn: Callable[..., Any], shape: tuple[int, ...], *arrays: Array) -> Array:
    """Calls `fn` on the host with NumPy arrays, and returns int32 of `shape`."""
    result = jax.ShapeDtypeStruct(shape, jnp.int32)
    to_numpy = lambda *arrays: fn(*map(np.asarray, arrays))
    return jax.pure_callback(to_numpy, result, *arrays, vmap_method="broadcast_all")
