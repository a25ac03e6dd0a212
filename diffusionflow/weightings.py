"""Factors on a kind's squared error.

A weighting names the `kind` whose error it multiplies and gives the factor
`weighting(t, schedule)`. Together with the density of training times it makes the
objective; `objectives.total_weight` gives both on one scale.
"""

from typing import Any

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from diffusionflow._dataclass import register
from diffusionflow._numeric import at_least_float32
from diffusionflow.predictions import as_kind
from diffusionflow.schedules import Schedule


@register
class Mse:
    """The plain squared error of a kind: factor 1.

    Args:
      kind: whose error is squared; it need not be what the network predicts.

    Raises:
      ValueError: the kind is unknown.
    """

    kind: Any

    def __post_init__(self) -> None:
        object.__setattr__(self, "kind", as_kind(self.kind))

    def __call__(self, t: ArrayLike, schedule: Schedule) -> Array:
        """The factor at times `t`, of the shape of `t`."""
        del schedule
        return jnp.ones_like(at_least_float32(t))
