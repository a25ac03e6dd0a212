"""The sigmoid schedule."""

from jax import Array
from jax.typing import ArrayLike

from diffusionflow import _xp as xp
from diffusionflow._dataclass import (
    check_below,
    check_bound,
    check_positive,
    is_finite,
    register,
)
from diffusionflow._numeric import floating, in_type_of
from diffusionflow.schedules.base import FromSquares


@register
class Sigmoid(FromSquares):
    """Sigmoid: variance preserving, `alpha^2` a piece of a falling logistic curve.

    `alpha^2 = (s(y_1) - s(y)) / (s(y_1) - s(y_0))` with s the logistic function and
    `y = (start + t (end - start)) / temperature`. It is computed as

        alpha^2 = (s(-y) / s(-y_0)) (1 - e^(y - y_1)) / (1 - e^(y_0 - y_1)),
        sigma^2 = (s(y) / s(y_1)) (1 - e^(y_0 - y)) / (1 - e^(y_0 - y_1)),

    so that neither cancels, alpha(1) = 0 and sigma(0) = 0, and no temperature is too
    small for the exponentials.

    Args:
      start: of the piece, at t = 0.
      end: of the piece, at t = 1, above `start`.
      temperature: positive.

    Raises:
      ValueError: `end <= start`, or `temperature` is not positive.

    Source: Jabri et al. 2022, arXiv 2212.11972, and Chen 2023, arXiv 2301.10972, whose
    clip of alpha^2 to at least 1e-9 is left out.
    """

    start: float | Array = -3.0
    end: float | Array = 3.0
    temperature: float | Array = 1.0

    def __post_init__(self) -> None:
        check_bound("start", self.start, is_finite, "finite")
        check_bound("end", self.end, is_finite, "finite")
        check_below("start", self.start, "end", self.end)
        check_positive("temperature", self.temperature)

    def _ends(self) -> tuple[Array, Array, Array, Array]:
        """Computes `y_0`, `y_1`, their difference and `log(s(y_1) - s(y_0))`."""
        start, end = floating(self.start), floating(self.end)
        low, high = start / self.temperature, end / self.temperature
        width = (end - start) / self.temperature
        between = (
            xp.log(-xp.expm1(-width)) + xp.log_sigmoid(high) + xp.log_sigmoid(-low)
        )
        return low, high, width, between

    def squares(self, t: ArrayLike) -> tuple[Array, Array]:
        """Computes `(alpha^2, sigma^2)`."""
        t = floating(t)
        low, high, width, _ = in_type_of(t, self._ends())
        y, total = low * (1 - t) + high * t, xp.expm1(-width)
        clean = xp.exp(xp.log_sigmoid(-y) - xp.log_sigmoid(-low))
        noisy = xp.exp(xp.log_sigmoid(y) - xp.log_sigmoid(high))
        ahead, past = xp.expm1(-width * (1 - t)), xp.expm1(-width * t)
        return clean * (ahead / total), noisy * (past / total)

    def rate(self, t: ArrayLike) -> Array:
        """Computes `(sigma^2)'`."""
        t = floating(t)
        low, high, width, between = in_type_of(t, self._ends())
        y = low * (1 - t) + high * t
        return width * xp.exp(xp.log_sigmoid(y) + xp.log_sigmoid(-y) - between)

    def inverse_logsnr(self, logsnr: ArrayLike) -> Array:
        # e^(y - y_0) = 1 + (e^-y_0 - e^-y_1) / (r + e^-y_1), r = SNR s(-y_0) / s(y_1)
        logsnr = floating(logsnr)
        low, high, width, _ = in_type_of(logsnr, self._ends())
        level = logsnr + xp.log_sigmoid(-low) - xp.log_sigmoid(high)
        gained = xp.log(-xp.expm1(-width)) - low - xp.logaddexp(level, -high)
        return xp.softplus(gained) / width
