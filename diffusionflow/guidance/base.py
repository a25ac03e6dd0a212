"""What every wrapper of denoisers passes on."""

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from diffusionflow._dataclass import calls, cost
from diffusionflow.predictions import DenoiseFn


class Wrapper:
    """A denoiser made of others, the fields named in `parts`."""

    parts: tuple[str, ...] = ("denoise_fn",)

    def _denoisers(self) -> list[DenoiseFn]:
        return [getattr(self, name) for name in self.parts]

    @property
    def cost(self) -> int:
        """Network calls of one evaluation, at most."""
        return sum(cost(denoise_fn) for denoise_fn in self._denoisers())

    def calls(self, t: ArrayLike) -> int | Array:
        """Network calls of an evaluation at `t`."""
        return sum(calls(denoise_fn, t) for denoise_fn in self._denoisers())

    def check(self, t: ArrayLike) -> None:
        """Raises a `ValueError` where a denoiser cannot be evaluated at `t`."""
        for denoise_fn in self._denoisers():
            if hasattr(denoise_fn, "check"):
                denoise_fn.check(t)

    def finish(self, x: Array) -> Array:
        """Samples with what the denoisers know of the data put in."""
        for denoise_fn in self._denoisers():
            if hasattr(denoise_fn, "finish"):
                x = denoise_fn.finish(x)
        return x


def over_event(z: Array, event_ndim: int) -> tuple[int, ...]:
    """The last `event_ndim` axes of `z`.

    Raises:
      ValueError: `z` has fewer.
    """
    if z.ndim < event_ndim:
        raise ValueError(
            f"event_ndim={event_ndim}: an array of shape {z.shape} has fewer axes; "
            "it is the number of axes of one example, such as 3 for an image"
        )
    return tuple(range(z.ndim - event_ndim, z.ndim))


def at_positive(value: Array, divisor: Array) -> Array:
    """`value / divisor`, and 0 where the divisor is 0, also in its derivatives."""
    positive = divisor > 0
    return jnp.where(positive, value / jnp.where(positive, divisor, 1), 0)
