"""Base class of weightings, and conversion to the error of another kind."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from diffusionflow import _xp as xp
from diffusionflow import predictions
from diffusionflow._dataclass import QuietMethods, is_traced, register
from diffusionflow._numeric import floating
from diffusionflow.predictions import AnyKind, Kind
from diffusionflow.schedules import Schedule


class Weighting(QuietMethods):
    """Base class of weightings: subclasses give `kind` and `__call__`.

    Fields:
      kind: prediction type whose squared error is multiplied.
    """

    kind: Any

    def __call__(self, t: ArrayLike, *, schedule: Schedule) -> Array:
        """Computes the factor on the squared error of `kind` at `t`, of any shape."""
        raise NotImplementedError(f"{type(self).__name__} must define __call__")

    def on_eps(self, t: ArrayLike, *, schedule: Schedule) -> Array | None:
        """Returns the factor on the eps-MSE in closed form, if there is one.

        It is needed where the factor on the error of `kind` is 0 and the ratio of the
        two errors infinite; None, the default, for a numerical limit there.
        """
        del t, schedule
        return None


@xp.quiet
def weight_on(
    weighting: Any, kind: AnyKind, t: ArrayLike, *, schedule: Schedule
) -> Array:
    """Converts a weighting to a factor on the MSE of any kind, `w(t) (D_q / D_p)^2`.

    Where that is `0 * inf`, it is the limit for alpha or sigma going to 0: in closed
    form if the weighting has one; otherwise, as for a user's function, the value at a
    level of one rounding unit. If that does not settle from there to half of it, the
    limit is 0 where it falls and infinite elsewhere.

    Args:
      weighting: w, on the error of its own kind q.
      kind: p.
      t: times, any shape.
      schedule: any schedule.

    Returns:
      An array of the shape of `t`.
    """
    t = floating(t)
    if str(kind) in ("eps", "score") and isinstance(weighting, Weighting):
        closed = weighting.on_eps(t, schedule=schedule)
        if closed is not None:
            return closed if str(kind) == "eps" else closed * schedule.sigma(t) ** 2

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


@xp.quiet
def weight_on_eps(
    weighting: Any, times: Any, t: ArrayLike, *, schedule: Schedule
) -> Array:
    """Computes total weight `W = w(t) (D / alpha)^2 p(t) / |dlogsnr/dt|` on eps-MSE.

    Args:
      weighting: w, on the error of its own kind.
      times: the density p of training times.
      t: any shape, inside (0, 1).
      schedule: any schedule.

    Returns:
      An array of the shape of `t`; 0 where the density is.
    """
    density = times.density(t, schedule=schedule)
    used = density != 0
    t = xp.where(used, t, 0.5)
    weight = weight_on(weighting, Kind("eps"), t, schedule=schedule)
    slope = xp.abs(schedule.dlogsnr_dt(t))
    return xp.where(used, weight * density / slope, 0)


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
        """Computes the derivatives; of a root at 0, the slope at the replaced level."""
        dalpha, dsigma = (
            xp.where(xp.isinf(slope) & (rate != 0), rate / (2 * level), slope)
            for slope, rate, level in zip(
                self.base.derivatives(t),
                self.base.square_derivatives(t),
                (self.alpha(t), self.sigma(t)),
                strict=True,
            )
        )
        return dalpha, dsigma
