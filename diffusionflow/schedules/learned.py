"""A learnable schedule."""

from typing import Any

import numpy as np
from jax import Array
from jax.typing import ArrayLike

from diffusionflow import _xp as xp
from diffusionflow._dataclass import check_count, register, static
from diffusionflow._numeric import floating, in_type_of
from diffusionflow.schedules.base import FromLogSNR
from diffusionflow.schedules.logsnr import check_finite_range


@register
class Learned(FromLogSNR):
    """Learnable schedule: the log-SNR falls strictly whatever its parameters are.

    Variance preserving, with K steps of logistic shape on a straight line:

        logsnr = (logsnr_max R(t) + logsnr_min N(t)) / (N(t) + R(t)),
        N(t) = w_0 t + sum_k w_k (s(a_k (t - c_k)) - s(-a_k c_k)),

    where s is the logistic function, `w = softmax(logits)`, `a = softplus(slopes)`,
    `c = centres` and R(t) = N(1) - N(t) is formed without cancellation. As N(0) = 0 and
    R(1) = 0, the ends are exact for all parameters.

    Args:
      logits: of the weights, the straight line's first, `[K + 1]`.
      slopes: of the steps before softplus, `[K]`.
      centres: of the steps, `[K]`.
      logsnr_min: log-SNR at t = 1; not a leaf, so that no optimizer moves it.
      logsnr_max: log-SNR at t = 0, likewise.

    Raises:
      ValueError: not -inf < logsnr_min < logsnr_max < inf.

    Source: the monotone network and its normalisation are the idea of Kingma et al.
    2021, arXiv 2107.00630; this one has one layer and closed-form derivatives. The
    paper learns its end points too, against the prior and reconstruction terms.
    """

    logits: Any
    slopes: Any
    centres: Any
    logsnr_min: float = static(default=-5.0)
    logsnr_max: float = static(default=13.3)

    def __post_init__(self) -> None:
        check_finite_range(self.logsnr_min, self.logsnr_max)

    def _parts(self, t: Array) -> tuple[Array, Array, Array]:
        """Computes `N(t)`, `R(t)` and `N'(t)`, each of the shape of `t`."""
        parameters = (self.logits, self.slopes, self.centres)
        logits, slopes, centres = in_type_of(t, parameters)
        weights, steep = xp.softmax(logits), xp.softplus(slopes)
        expand = lambda row: row.reshape(row.shape + (1,) * t.ndim)
        line, weights = weights[0], expand(weights[1:])
        steep, centres, t = expand(steep), expand(centres), t[None]
        here = steep * (t - centres)
        past = xp.sigmoid(here) * xp.sigmoid(steep * centres) * -xp.expm1(-steep * t)
        ahead = xp.sigmoid(steep * (1 - centres)) * xp.sigmoid(-here)
        ahead = ahead * -xp.expm1(-steep * (1 - t))
        slope = steep * xp.sigmoid(here) * xp.sigmoid(-here)
        total = lambda parts: xp.sum(weights * parts, axis=0)
        t = t[0]
        return (
            line * t + total(past),
            line * (1 - t) + total(ahead),
            line + total(slope),
        )

    def logsnr(self, t: ArrayLike) -> Array:
        past, ahead, _ = self._parts(floating(t))
        total = past + ahead  # x / x is exactly 1, hence each end its end point
        return self.logsnr_max * (ahead / total) + self.logsnr_min * (past / total)

    def dlogsnr_dt(self, t: ArrayLike) -> Array:
        past, ahead, slope = self._parts(floating(t))
        return (self.logsnr_min - self.logsnr_max) * slope / (past + ahead)


def learned(
    num_units: int = 16, *, logsnr_min: float = -5.0, logsnr_max: float = 13.3
) -> Learned:
    """Makes the initial `Learned`: a nearly linear log-SNR, its steps evenly spaced.

    Args:
      num_units: steps, at least 1.
      logsnr_min: log-SNR at t = 1.
      logsnr_max: log-SNR at t = 0.

    Returns:
      A schedule whose leaves are float32.

    Raises:
      ValueError: no step, or bad end points.
    """
    check_count("num_units", num_units)
    steep = 2.0 * num_units  # softplus is the identity there
    return Learned(
        logits=np.log(np.array([num_units] + [1] * num_units)).astype(np.float32),
        slopes=np.full(num_units, steep + np.log(-np.expm1(-steep)), np.float32),
        centres=((np.arange(num_units) + 0.5) / num_units).astype(np.float32),
        logsnr_min=logsnr_min,
        logsnr_max=logsnr_max,
    )
