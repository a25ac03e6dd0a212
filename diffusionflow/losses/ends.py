"""Weighted errors where alpha or sigma is 0.

A weighted error of one kind can be finite where the factor and the ratio of errors are
0 and infinite, such as min-SNR on a network of eps at alpha = 0: the limit is wanted,
not `0 * inf`. And a network of a kind that is infinite there, such as the score at
sigma = 0, has a finite error of another kind.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from diffusionflow import _xp as xp
from diffusionflow import predictions
from diffusionflow._dataclass import is_traced, register
from diffusionflow.losses.squared import mean_square, noised
from diffusionflow.predictions import AnyKind, Denoised, PredictFn
from diffusionflow.schedules import Schedule


@register
class Bounded:
    """A kind divided by its largest coefficient, where that is above 1.

    `(a, b) / m`, `m = max(1, |a|, |b|)`; where one coefficient is infinite, `(a, b)` is
    its axis and the prediction counts nothing.
    """

    kind: Any

    def plane(self, t: ArrayLike, *, schedule: Schedule) -> tuple[Array, Array]:
        """As `predictions.Kind.plane`."""
        a, b = self.kind.plane(t, schedule=schedule)
        scale = self.scale(schedule, t)
        infinite = scale == 0
        axis = lambda part: xp.where(xp.isinf(part), xp.sign(part), 0)
        inner = lambda part: scale * xp.where(infinite, 0, part)
        return tuple(xp.where(infinite, axis(part), inner(part)) for part in (a, b))

    def scale(self, schedule: Schedule, t: ArrayLike) -> Array:
        """`1 / m`."""
        a, b = self.kind.plane(t, schedule=schedule)
        return 1 / xp.maximum(1, xp.maximum(xp.abs(a), xp.abs(b)))


def finite_error(
    predict_fn: PredictFn, x: Array, t: Array, eps: Array, kind: Any, schedule: Schedule
) -> tuple[Array, AnyKind]:
    """A squared error that a network of `kind` makes, and the kind whose error it is.

    It is that of `kind` but for the two that can be infinite: a score counts as the eps
    that it implies, `dz_dt` as `Bounded`.

    Returns:
      `[*batch]`, mean over the event, and a kind.
    """
    z = noised(x, t, eps, schedule)
    prediction = predict_fn(z, t)
    factor = None
    match str(kind):
        case "score":
            kind, factor = predictions.as_kind("eps"), -schedule.sigma(t)
        case "dz_dt":
            kind = Bounded(kind)
            factor = kind.scale(schedule, t)
    if factor is not None:
        prediction = prediction.astype(x.dtype)
        prediction = predictions.per_event(factor, prediction) * prediction
    denoised = Denoised(x, eps.astype(x.dtype))
    target = predictions.from_denoised(denoised, kind=kind, t=t, schedule=schedule)
    return mean_square(prediction, target, t.ndim), kind


@register
class _Inside(Schedule):
    """A schedule with the level 0 replaced by `share` of the other level."""

    base: Any
    share: float

    def alpha(self, t: ArrayLike) -> Array:
        alpha, sigma = self.base.alpha(t), self.base.sigma(t)
        return xp.where(alpha == 0, self.share * sigma, alpha)

    def sigma(self, t: ArrayLike) -> Array:
        alpha, sigma = self.base.alpha(t), self.base.sigma(t)
        return xp.where(sigma == 0, self.share * alpha, sigma)

    def inverse_logsnr(self, logsnr: ArrayLike) -> Array:
        return self.base.inverse_logsnr(logsnr)

    def derivatives(self, t: ArrayLike) -> tuple[Array, Array]:
        """See `schedules.derivatives`; of a root at 0, the slope at the share."""
        return tuple(
            xp.where(xp.isinf(slope) & (rate != 0), rate / (2 * level), slope)
            for slope, rate, level in zip(
                self.base.derivatives(t),
                self.base.square_derivatives(t),
                (self.alpha(t), self.sigma(t)),
                strict=True,
            )
        )


def weight_on(weighting: Any, kind: AnyKind, t: Array, schedule: Schedule) -> Array:
    """`w(t) (D_q / D_p)^2`: a weighting on the squared error of any kind.

    Where that is `0 * inf`, it is the limit for alpha or sigma going to 0: the value at
    a level of one rounding unit. If that does not settle from there to half of it, the
    limit is 0 where it falls and infinite elsewhere.

    Args:
      weighting: w, on the error of its own kind q.
      kind: p.
      t: times, any shape.
      schedule: any schedule.

    Returns:
      An array of the shape of `t`.
    """

    def weight(schedule: Schedule, t: Array) -> Array:
        ratio = predictions.error_ratio(weighting.kind, kind, t, schedule=schedule)
        return weighting(t, schedule=schedule) * ratio

    lost = xp.isnan(weight(schedule, t))
    if not is_traced(lost) and not np.any(lost):
        return weight(schedule, t)
    unit = float(jnp.finfo(t.dtype).eps)
    near, nearer = (weight(_Inside(schedule, unit / part), t) for part in (1, 2))
    settled = xp.abs(nearer - near) <= unit**0.5 * near
    limit = xp.where(settled, near, xp.where(nearer < near, 0, xp.inf))
    limit = xp.where(xp.isnan(near) | xp.isnan(nearer), xp.nan, limit)
    inside = xp.where(lost, 0.5, t)  # where its derivative is finite too
    return xp.where(lost, limit, weight(schedule, inside))
