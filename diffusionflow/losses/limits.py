"""Errors of networks whose prediction type is infinite where alpha or sigma is 0.

Such as the score at sigma = 0: it has a finite error of another kind.
"""

from typing import Any

from jax import Array
from jax.typing import ArrayLike

from diffusionflow import _xp as xp
from diffusionflow import predictions
from diffusionflow._dataclass import register
from diffusionflow.losses.squared import mean_square
from diffusionflow.predictions import AnyKind, Denoised, PredictFn
from diffusionflow.processes.noising import noised
from diffusionflow.schedules import Schedule


@register
class Bounded:
    """Prediction type divided by its largest coefficient, where that is above 1.

    `(a, b) / m`, `m = max(1, |a|, |b|)`; where one coefficient is infinite, `(a, b)` is
    its axis and the prediction has weight 0.
    """

    kind: Any

    def plane(self, t: ArrayLike, *, schedule: Schedule) -> tuple[Array, Array]:
        """Computes the coefficients `(a, b)` of `a x + b eps`, of the shape of `t`."""
        a, b = self.kind.plane(t, schedule=schedule)
        scale = self.scale(schedule, t)
        infinite = scale == 0
        axis = lambda part: xp.where(xp.isinf(part), xp.sign(part), 0)
        inner = lambda part: scale * xp.where(infinite, 0, part)
        bounded = lambda part: xp.where(infinite, axis(part), inner(part))
        return bounded(a), bounded(b)

    def scale(self, schedule: Schedule, t: ArrayLike) -> Array:
        """Computes `1 / m`."""
        a, b = self.kind.plane(t, schedule=schedule)
        return 1 / xp.maximum(1, xp.maximum(xp.abs(a), xp.abs(b)))


def finite_error(
    predict_fn: PredictFn,
    x: Array,
    t: Array,
    eps: Array,
    kind: Any,
    schedule: Schedule,
    mask: Array | None,
) -> tuple[Array, AnyKind]:
    """Computes the finite squared error of a network, and the kind that it belongs to.

    It is that of `kind` but for the two that can be infinite: a score is compared as
    the eps that it implies, `dz_dt` as `Bounded`.

    Returns:
      `[*batch]`, mean over the event, where `mask` is True if there is one, and a kind.
    """
    z = noised(x, eps, t, schedule)
    prediction = predictions.as_prediction(predict_fn(z, t), z)
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
    return mean_square(prediction, target, t.ndim, mask), kind
