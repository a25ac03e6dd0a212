"""The sigmoid schedule."""

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from diffusionflow._dataclass import check_bound, register
from diffusionflow._numeric import at_least_float32
from diffusionflow.schedules.base import FromSquares


@register
class Sigmoid(FromSquares):
    """Variance preserving, `alpha^2` a piece of a falling logistic curve.

    `alpha^2 = (s(y_1) - s(y)) / (s(y_1) - s(y_0))` with s the logistic function and
    `y = (start + t (end - start)) / temperature`. It is computed as

        alpha^2 = sinh((y_1 - y) / 2) cosh(y_0 / 2) / (sinh(w) cosh(y / 2)),
        w = (y_1 - y_0) / 2,

    and sigma^2 likewise, so that neither cancels: alpha(1) = 0 and sigma(0) = 0.

    Args:
      start: of the piece.
      end: of the piece, above `start`.
      temperature: positive.

    Raises:
      ValueError: `end <= start`, or `temperature` is not positive.

    Source: Jabri et al. 2022, arXiv 2212.11972, and Chen 2023, arXiv 2301.10972, whose
    clip of alpha^2 to at least 1e-9 is left out.
    """

    start: float = -3.0
    end: float = 3.0
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if isinstance(self.start, (int, float)):
            above = lambda end: end > self.start
            check_bound("end", self.end, above, f"above start={self.start!r}")
        positive = lambda temperature: temperature > 0
        check_bound("temperature", self.temperature, positive, "positive")

    def _halves(self) -> tuple[Array, Array, Array]:
        """`y_0 / 2`, `y_1 / 2` and their difference."""
        start, end = at_least_float32(self.start), at_least_float32(self.end)
        twice = 2 * self.temperature
        return start / twice, end / twice, (end - start) / twice

    def squares(self, t: ArrayLike) -> tuple[Array, Array]:
        """`(alpha^2, sigma^2)`."""
        t, (low, high, width) = at_least_float32(t), self._halves()
        scale = jnp.sinh(width) * jnp.cosh(low * (1 - t) + high * t)
        alpha2 = jnp.sinh(width * (1 - t)) * jnp.cosh(low) / scale
        return alpha2, jnp.sinh(width * t) * jnp.cosh(high) / scale

    def rate(self, t: ArrayLike) -> Array:
        """`(sigma^2)'`."""
        t, (low, high, width) = at_least_float32(t), self._halves()
        ends = width * jnp.cosh(low) * jnp.cosh(high) / jnp.sinh(width)
        return ends / jnp.cosh(low * (1 - t) + high * t) ** 2

    def inverse_logsnr(self, logsnr: ArrayLike) -> Array:
        low, high, width = self._halves()
        ratio = jnp.exp(at_least_float32(logsnr)) * (jnp.cosh(high) / jnp.cosh(low))
        grown = 2 * jnp.sinh(width) / (ratio + jnp.exp(-width))
        return jnp.log1p(grown) / (2 * width)
