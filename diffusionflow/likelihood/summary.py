"""Means with their standard errors."""

from typing import NamedTuple

import chex
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from diffusionflow._numeric import at_least_float32


class Summary(NamedTuple):
    """Mean over examples with its standard error; scalars.

    Fields:
      mean: NaN where no example counts.
      stderr: its standard error, NaN for fewer than two examples.
      count: how many examples count.
    """

    mean: Array
    stderr: Array
    count: Array  # type: ignore[assignment]


def summarise(values: ArrayLike, mask: ArrayLike | None = None) -> Summary:
    """Averages per-example values, with the standard error of the mean.

    `stderr^2 = sum (v - mean)^2 / (n (n - 1))`. Where each value is itself an unbiased
    estimate (random times, probes), its scatter is in the standard error already.

    Args:
      values: `[N]`, such as the `total` of a bound.
      mask: bool `[N]`, False for examples that are padding, whatever their values
        (NaN included); None for none.

    Returns:
      `Summary`, in the unit of `values`.

    Raises:
      AssertionError: shapes disagree, or `values` has not one axis.
    """
    values = at_least_float32(values)
    chex.assert_rank(values, 1)
    keep = jnp.ones_like(values, bool) if mask is None else jnp.asarray(mask, bool)
    chex.assert_equal_shape([values, keep])
    count = jnp.sum(keep).astype(values.dtype)
    mean = jnp.sum(jnp.where(keep, values, 0)) / count
    squares = jnp.sum(jnp.where(keep, values - mean, 0) ** 2)
    return Summary(mean, jnp.sqrt(squares / (count - 1) / count), jnp.sum(keep))


def standard_error(draws: Array) -> Array:
    """Computes the standard error of the mean over the first axis; NaN for one draw."""
    count = draws.shape[0]
    if count == 1:
        return jnp.full_like(draws[0], jnp.nan)
    return jnp.std(draws, axis=0, ddof=1) / count**0.5
