"""Base class of couplings, and groups of consecutive examples."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from diffusionflow import predictions, random
from diffusionflow._dataclass import check_count, register
from diffusionflow._numeric import at_least_float32


class Pairs(NamedTuple):
    """Pairs of data and noise, one for each example.

    Fields:
      x: data, `[n, *event]`.
      eps: noise, like `x`.
      labels: `[n]`, or None.
      index: int32 `[n]`, where the part that moved came from: `eps = eps_given[index]`,
        or `x = data[index]` of `Semidiscrete`.
    """

    x: Array
    eps: Array
    labels: Array | None
    index: Array  # type: ignore[assignment]  # in place of the method of tuples


class Coupling:
    """Base class: subclasses give `permutation(key, x, eps, labels)`.

    Example:
      >>> import diffusionflow
      >>> @diffusionflow.register
      ... class Reversed(Coupling):
      ...     '''The last noise for the first example.'''
      ...     def permutation(self, key, x, eps, labels):
      ...         return jnp.arange(len(x), dtype=jnp.int32)[::-1]
      >>> pairs = Reversed()(None, jnp.zeros(3), jnp.array([0.1, 0.2, 0.3]))
      >>> print(pairs.eps)
      [0.3 0.2 0.1]
    """

    def permutation(
        self, key: Array | None, x: Array, eps: Array, labels: Array | None
    ) -> Array:
        """Chooses the noise of every example: int32 `[n]`, a permutation.

        Args:
          key: scalar, or `[n]`; None where nothing is random.
          x: `[n, features]`, of float32 or wider.
          eps: like `x`.
          labels: integers `[n]`, or None.
        """
        raise NotImplementedError(f"{type(self).__name__} must define permutation()")

    def __call__(
        self, key: Array | None, x: Array, eps: Array, labels: Array | None = None
    ) -> Pairs:
        """Pairs data and noise: `x` and `labels` as given, `eps` permuted.

        Args:
          key: scalar, or typed keys `[n]`; None where nothing is random.
          x: data, `[n, *event]`.
          eps: standard normal noise, like `x`.
          labels: integers `[n]`; noise moves between examples of one label only. None
            for a model without labels.

        Returns:
          `Pairs`.

        Raises:
          ValueError: an array is not of floating numbers, shapes disagree, labels are
            not integers `[n]`, or `key` is no typed key.
        """
        x, eps, labels = checked(key, x, eps, labels)
        fixed = lambda part: jax.lax.stop_gradient(as_rows(part))
        index = self.permutation(key, fixed(x), fixed(eps), labels)
        return Pairs(x, eps[index], labels, index)


@register
class Independent(Coupling):
    """Independent pairs: the noise as it was given, `index = 0, 1, ..., n - 1`.

    Example:
      >>> x, eps = jnp.array([1.0, -1.0]), jnp.array([-2.0, 2.0])
      >>> print(Independent()(None, x, eps).eps)
      [-2.  2.]
    """

    def permutation(
        self, key: Array | None, x: Array, eps: Array, labels: Array | None
    ) -> Array:
        """Returns the identity."""
        del key, eps, labels
        return jnp.arange(len(x), dtype=jnp.int32)


def checked(
    key: Array | None, x: Array, eps: Array, labels: Array | None
) -> tuple[Array, Array, Array | None]:
    """Checks what a coupling is called with, and makes arrays of it.

    Raises:
      ValueError: as `Coupling.__call__`.
    """
    if key is not None:
        random.check_key(key)
    for name, value in (("x", x), ("eps", eps)):
        predictions.as_data(value, name)
        if not np.ndim(value) or not len(value):
            raise ValueError(
                f"{name} of shape {np.shape(value)}: must be [n, *event], one row for "
                "each example, and one at least"
            )
    predictions.check_same_shape("eps", eps, "x", x)
    if key is not None and key.shape not in ((), np.shape(x)[:1]):
        raise ValueError(
            f"keys of shape {key.shape}: must be one key, or one for each of the "
            f"{len(x)} examples"
        )
    return jnp.asarray(x), jnp.asarray(eps), as_labels(labels, len(x))


def as_labels(labels: Any, n: int) -> Array | None:
    """Checks labels: integers `[n]`, or None.

    Raises:
      ValueError: they are not.
    """
    if labels is None:
        return None
    dtype = getattr(labels, "dtype", None) or np.asarray(labels).dtype
    if np.shape(labels) != (n,) or not jnp.issubdtype(dtype, jnp.integer):
        raise ValueError(
            f"labels of shape {np.shape(labels)} and type {dtype}: must be integers "
            f"of shape ({n},), one for each example"
        )
    return jnp.asarray(labels)


def as_rows(x: Array) -> Array:
    """Flattens `[n, *event]` to `[n, features]`, in float32 or wider."""
    return at_least_float32(x).reshape(len(x), -1)


def check_group(group: int) -> None:
    """Raises a `ValueError` where a size of groups is not positive."""
    check_count("group", group)


def in_groups(group: int, *arrays: Any) -> tuple[Any, ...]:
    """Cuts `[n, ...]` into `[n / group, group, ...]`; None stays None.

    Up to `group` examples are one group.

    Raises:
      ValueError: more examples are no whole number of groups.
    """
    n = len(arrays[0])
    size = min(n, group)
    if n % max(size, 1):
        raise ValueError(
            f"{n} examples in groups of group={group}: must be a whole number of "
            "groups; choose a group that divides them, or a batch that it divides"
        )
    cut = lambda array: array.reshape(-1, size, *array.shape[1:])
    return tuple(None if array is None else cut(array) for array in arrays)


def joined(index: Array) -> Array:
    """Converts numbers in groups, `[groups, size]`, to numbers in the batch, `[n]`."""
    groups, size = index.shape
    start = size * jnp.arange(groups, dtype=jnp.int32)
    return (index + start[:, None]).reshape(-1)
