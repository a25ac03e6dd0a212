"""Overshooting sampler: DDIM beyond the next time, and noise back to it."""

from jax import Array

from diffusionflow import _xp as xp
from diffusionflow._dataclass import check_bound, register
from diffusionflow._numeric import root
from diffusionflow.samplers.churn import OneStep, Row, row_keeping, step_ratio
from diffusionflow.schedules import Schedule


@register
class Overshoot(OneStep):
    """Stochastic DDIM that goes beyond s in proportion to the step in time.

    DDIM goes to `r = max(s - c (t - s) s, 0)` with c = strength, and noise brings z
    back to the level of s: the churn family with
    `k = (sigma_r alpha_s) / (alpha_r sigma_s)`. 0 is DDIM. On flow matching DDIM is
    Euler's method, as in the source.

    Args:
      strength: c, at least 0.

    Raises:
      ValueError: `strength` is negative.

    Source: `OverShootingSampler` of rectified-flow (Liu et al.), for the straight path.
    """

    strength: float | Array = 1.0

    def __post_init__(self) -> None:
        check_bound("strength", self.strength, lambda c: c >= 0, "at least 0")

    def plan(self, t: Array, s: Array, schedule: Schedule) -> Row:
        beyond = s - xp.asarray(self.strength, s.dtype) * (t - s) * s
        some, middle = schedule.sigma(s) > 0, (t + s) / 2  # placeholder
        start = xp.where(some, s, middle)
        end = xp.where(some, xp.maximum(beyond, 0), middle)
        kept = step_ratio(start, end, schedule)
        fresh = root((1 - kept) * (1 + kept))
        return row_keeping(t, s, schedule, kept, fresh)
