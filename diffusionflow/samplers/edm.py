"""EDM's stochastic sampler: noise first, then a step of an ODE solver."""

import math
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from diffusionflow import _xp as xp
from diffusionflow._dataclass import (
    check_below,
    check_bound,
    check_name,
    check_not_negative,
    check_order,
    register,
    static,
)
from diffusionflow._numeric import root
from diffusionflow.samplers import tableaus
from diffusionflow.samplers.dpm_solver import DPMSolver2S
from diffusionflow.samplers.ode import Euler, Row, RungeKutta
from diffusionflow.samplers.raised import RaisedSteps
from diffusionflow.samplers.variables import VARIABLES
from diffusionflow.schedules import Schedule


@register
class EDM(RaisedSteps):
    """EDM's stochastic sampler: raises the noise level (churn), then takes an ODE step.

    With rho = sigma / alpha and N steps, a step from t to s begins with

        gamma = min(s_churn / N, sqrt(2) - 1) where s_tmin <= rho_t <= s_tmax, else 0,
        rho_r = (1 + gamma) rho_t,
        z_r / alpha_r = z_t / alpha_t + s_noise sqrt(rho_r^2 - rho_t^2) xi,

    and goes from r to s by `Heun("eps")` (2 stages) or `Euler("eps")` (1 stage, DDIM);
    with `second="midpoint"` by `DPMSolver2S("eps")`, its second stage in the middle of
    log rho. `variable="dz_dt"` and `place` make it the general sampler of the source's
    ablations, whose schedule and scaling are those of `schedule` and whose alpha is
    `place`. The step to sigma = 0 is Euler's. The network is called at r. No level is
    raised beyond that of t = 1, where the schedule ends: gamma is then what leads
    there, and 0 from alpha = 0, where z is noise already. This is a deviation from the
    source, which calls its network there. N is the number of steps in the grid, without
    the step of `sample` to the data.

    Args:
      s_churn: total amount of added noise, at least 0. 0 is the deterministic sampler.
      s_tmin: lowest rho that is raised.
      s_tmax: highest rho that is raised.
      s_noise: factor of the noise; 1 keeps the law.
      stages: 2, or 1 for Euler.
      second: where the second stage is, "heun" (at `place`) or "midpoint".
      variable: of the ODE step, one of `VARIABLES`.
      place: of the second stage in the step, in (0, 1]; 1 is Heun's method, at s.

    Raises:
      ValueError: a value is out of bounds.

    Source: Karras et al. 2022, arXiv 2206.00364, algorithm 2, on any schedule, and the
    general sampler of its appendix; "midpoint" is `sample_dpm_2` of k-diffusion.
    """

    s_churn: float | Array = 0.0
    s_tmin: float | Array = 0.0
    s_tmax: float | Array = float("inf")
    s_noise: float | Array = 1.0
    stages: int = static(default=2)
    second: str = static(default="heun")
    variable: str = static(default="eps")
    place: float = static(default=1.0)

    def __post_init__(self) -> None:
        check_bound("s_churn", self.s_churn, lambda x: x >= 0, "at least 0")
        for name in ("s_tmin", "s_noise"):
            check_not_negative(name, getattr(self, name))
        check_bound("s_tmax", self.s_tmax, lambda x: x > 0, "positive")
        check_below("s_tmin", self.s_tmin, "s_tmax", self.s_tmax)
        check_order("stages", self.stages, 1, 2)
        check_name("second", self.second, ("heun", "midpoint"))
        check_name("variable", self.variable, VARIABLES)
        plain = self.variable == "eps" and self.place == 1
        if self.stages == 1 and (self.second != "heun" or self.place != 1):
            raise ValueError(
                f"second={self.second!r}, place={self.place!r}: must be left out with "
                "stages=1"
            )
        if self.second == "midpoint" and not plain:
            raise ValueError(
                f"variable={self.variable!r}, place={self.place!r}: must be left out "
                "with second='midpoint'"
            )
        tableaus.second_order(self.place)

    @property
    def _solver(self) -> Any:
        if self.stages == 1:
            return Euler(self.variable)
        if self.second == "midpoint":
            return DPMSolver2S("eps")
        return RungeKutta(tableaus.second_order(self.place), self.variable)

    def plan(self, t: Array, s: Array, schedule: Schedule) -> Row:
        gamma, raised = self._raise(t, schedule)
        grown, alpha = gamma > 0, schedule.alpha(t)
        ratio = schedule.alpha(raised) / xp.where(grown, alpha, 1)
        ratio = xp.where(grown, ratio, 1)
        added = schedule.sigma(t) * root(gamma * (2 + gamma))
        noise = ratio * added * xp.asarray(self.s_noise, t.dtype)
        rows = self._solver.plan(raised, s, schedule)
        if "full" in rows:
            full = rows["full"] & (schedule.sigma(s) > 0)
            rows = dict(rows, full=full, calls=1 + full.astype(np.int32))
        return dict(rows, raise_z=ratio, raise_noise=noise)

    def _raise(self, t: Array, schedule: Schedule) -> tuple[Array, Array]:
        """Returns gamma, and the time of the raised level."""
        alpha, end = schedule.alpha(t), schedule.alpha(xp.ones_like(t))
        some, bounded = alpha > 0, end > 0  # rho is finite
        rho = schedule.sigma(t) / xp.where(some, alpha, 1)
        top = schedule.sigma(xp.ones_like(t)) / xp.where(bounded, end, 1)
        inside = some & (rho >= self.s_tmin) & (rho <= self.s_tmax)
        gamma = xp.asarray(self.s_churn, t.dtype) / t.shape[0]
        gamma = xp.where(inside, xp.minimum(gamma, math.sqrt(2.0) - 1), 0)
        room = xp.where(some & bounded, top / xp.where(inside, rho, 1) - 1, xp.inf)
        # of t = 1 it is a rounding, whose square root would be noise
        room = xp.where(room > 8 * jnp.finfo(room.dtype).eps, room, 0)
        beyond = gamma >= room
        gamma = xp.where(beyond, room, gamma)
        grown = gamma > 0
        level = xp.where(grown & ~beyond, (1 + gamma) * rho, 1)
        later = schedule.inverse_logsnr(-2 * xp.log(level))
        later = xp.where(beyond, xp.ones_like(t), later)
        return gamma, xp.where(grown, later, t)
