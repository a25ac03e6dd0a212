"""Guidance: `denoise_fn -> denoise_fn`, whatever the network predicts."""

from typing import Any

import jax
from jax import Array
from jax.typing import ArrayLike

from diffusionflow._dataclass import as_callable, cost, register
from diffusionflow._numeric import at_least_float32
from diffusionflow.predictions import Denoised, DenoiseFn


@register
class ClassifierFree:
    """See `classifier_free`."""

    conditional_fn: Any
    unconditional_fn: Any
    scale: Any

    @property
    def cost(self) -> int:
        """Network calls per evaluation, those of both networks."""
        both = (self.conditional_fn, self.unconditional_fn)
        return sum(cost(denoise_fn) for denoise_fn in both)

    def __call__(self, z: Array, t: ArrayLike) -> Denoised:
        conditional = self.conditional_fn(z, t)
        unconditional = self.unconditional_fn(z, t)
        scale = at_least_float32(self.scale).astype(conditional.x.dtype)
        # Equal to uncond + scale (cond - uncond), and exact at scale 0 and 1.
        mix = lambda cond, uncond: scale * cond + (1 - scale) * uncond
        return jax.tree.map(mix, conditional, unconditional)

    def check(self, t: ArrayLike) -> None:
        """Raises a `ValueError` where either denoiser cannot be evaluated at `t`."""
        for denoise_fn in (self.conditional_fn, self.unconditional_fn):
            if hasattr(denoise_fn, "check"):
                denoise_fn.check(t)


def classifier_free(
    conditional_fn: DenoiseFn, unconditional_fn: DenoiseFn, scale: ArrayLike
) -> ClassifierFree:
    """`unconditional + scale (conditional - unconditional)`.

    Scale 0 is exactly the unconditional denoiser, 1 exactly the conditional one, more
    than 1 exaggerates the condition. (Sources that write `(1 + w) cond - w uncond` have
    `scale = 1 + w`.) x and eps are mixed alike, and every kind of prediction is linear
    in them at fixed z, so the kind that the network predicts does not matter.

    Args:
      conditional_fn: `(z, t) -> Denoised` given the condition.
      unconditional_fn: the same without it.
      scale: scalar.

    Returns:
      A registered callable `(z, t) -> Denoised`; its cost is the sum of both.

    Source: Ho and Salimans 2022, arXiv 2207.12598, eq. 6 with w = scale - 1.
    """
    return ClassifierFree(
        as_callable(conditional_fn), as_callable(unconditional_fn), scale
    )
