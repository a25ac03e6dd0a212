"""Base class of guided denoisers."""

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from diffusionflow.predictions import Denoiser


class Wrapper(Denoiser):
    """A denoiser that calls each denoiser among its fields once per evaluation."""

    def num_network_calls(self, t: ArrayLike) -> int | Array | None:
        counts = [part.num_network_calls(t) for part in self.parts()]
        known = [count for count in counts if count is not None]
        return sum(known) if len(known) == len(counts) else None


def event_axes(z: Array, batch_ndim: int) -> tuple[int, ...]:
    """The axes of one example in a batch.

    Raises:
      ValueError: `z` has no axis beyond those of the batch.
    """
    if z.ndim <= batch_ndim:
        raise ValueError(
            f"batch_ndim={batch_ndim}: must be below {z.ndim}, the number of axes of "
            f"an array of shape {z.shape}; it counts the leading axes that are the "
            "batch, 0 for a single example"
        )
    return tuple(range(batch_ndim, z.ndim))


def at_positive(value: Array, divisor: Array) -> Array:
    """`value / divisor`, and 0 where the divisor is 0, also in its derivatives."""
    positive = divisor > 0
    return jnp.where(positive, value / jnp.where(positive, divisor, 1), 0)
