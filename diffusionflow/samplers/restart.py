"""Restart: ODE steps, with noise added at one level and taken out again, repeatedly."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from diffusionflow import _xp as xp
from diffusionflow._dataclass import (
    check_below,
    check_count,
    check_finite,
    check_name,
    check_not_negative,
    is_traced,
    register,
    static,
)
from diffusionflow._numeric import root
from diffusionflow.predictions import DenoiseFn
from diffusionflow.samplers.churn import power
from diffusionflow.samplers.ode import Heun, Row
from diffusionflow.samplers.variables import VARIABLES
from diffusionflow.schedules import Schedule

MOST = 10_000  # steps of a round, and rounds
_KARRAS = 7  # the power of the levels inside the interval


@register
class Restart:
    """Restart sampler: Heun's method, and `repeats` rounds through one interval.

    With rho = sigma / alpha: at the time of the grid whose rho is nearest to `rho_min`
    (and below `rho_max`), each round adds noise up to `rho_max`,

        z / alpha <- z / alpha + sqrt(rho_max^2 - rho^2) xi,

    and returns in `num_steps` Heun steps, at levels of equal distance in rho^(1/7). So
    the plan has `repeats num_steps` rows more than the grid has steps. No level is
    above that of t = 1.

    Args:
      rho_min: where the rounds begin and end, at least 0.
      rho_max: to which noise is added, above `rho_min`.
      num_steps: of a round, at least 1.
      repeats: rounds, at least 0; 0 is Heun's method.
      variable: of Heun's method, one of `VARIABLES`.

    Raises:
      ValueError: a value is out of bounds; in `plan`: the grid ends above `rho_max`.

    Source: Xu et al. 2023, arXiv 2306.14878, algorithm 1 with one interval.
    """

    rho_min: float | Array = 0.05
    rho_max: float | Array = 1.0
    num_steps: int = static(default=4)
    repeats: int = static(default=2)
    variable: str = static(default="eps")
    num_noises = 1

    def __post_init__(self) -> None:
        check_not_negative("rho_min", self.rho_min)
        check_below("rho_min", self.rho_min, "rho_max", self.rho_max)
        check_finite("rho_max", self.rho_max)
        check_count("num_steps", self.num_steps, most=MOST)
        check_count("repeats", self.repeats, 0, most=MOST)
        check_name("variable", self.variable, VARIABLES)

    @property
    def _solver(self) -> Heun:
        return Heun(self.variable)

    @xp.quiet
    def plan(self, t: Array, s: Array, schedule: Schedule) -> Row:
        step, top = self._where(s, schedule)
        inner_t, inner_s = self._round(s[step], top, schedule)
        row = np.arange(t.shape[0] + self.repeats * self.num_steps)
        place = row - step - 1  # in the rounds
        inside = (place >= 0) & (place < self.repeats * self.num_steps)
        outer = xp.where(place < 0, row, row - self.repeats * self.num_steps)
        outer = xp.clip(outer, 0, t.shape[0] - 1)
        inner = place % self.num_steps
        all_t = xp.where(inside, inner_t[inner], t[outer])
        all_s = xp.where(inside, inner_s[inner], s[outer])
        raised = inside & (inner == 0)
        alpha, before = schedule.alpha(all_t), schedule.alpha(s[step])
        rho = schedule.sigma(s[step]) / before
        noise = alpha * root((top - rho) * (top + rho))
        rows = self._solver.plan(all_t, all_s, schedule)
        return dict(
            rows,
            raise_z=xp.where(raised, alpha / before, 1),
            raise_noise=xp.where(raised, noise, 0),
        )

    def _where(self, s: Array, schedule: Schedule) -> tuple[Any, Array]:
        """The step after which the rounds are, and rho to which noise is added."""
        one = xp.ones_like(s[0])
        end, top = schedule.alpha(one), xp.asarray(self.rho_max, s.dtype)
        highest = schedule.sigma(one) / xp.where(end > 0, end, 1)
        top = xp.where(end > 0, xp.minimum(top, highest), top)
        rho = schedule.sigma(s) / schedule.alpha(s)
        if not is_traced(rho, top) and not rho[-1] < top:
            raise ValueError(
                f"rho_max={self.rho_max!r}: must be above sigma / alpha at the last "
                f"time of the grid, {rho[-1]:.4g}"
            )
        distance = xp.where(rho < top, abs(rho - self.rho_min), xp.inf)
        find = jnp.argmin if is_traced(distance) else np.argmin
        return find(distance), top

    def _round(self, s: Array, top: Array, schedule: Schedule) -> tuple[Array, Array]:
        """Times at which the steps of a round begin and end."""
        rho = schedule.sigma(s) / schedule.alpha(s)
        part = np.arange(self.num_steps) / self.num_steps
        first, last = (power(ends, 1 / _KARRAS) for ends in (top, rho))
        levels = (first + part.astype(s.dtype) * (last - first)) ** _KARRAS
        times = schedule.inverse_logsnr(-2 * xp.log(levels))
        one = xp.ones_like(s)
        at_end = top * schedule.alpha(one) >= schedule.sigma(one)
        begins = xp.where(at_end, one, times[0])  # exactly
        times = xp.concatenate([begins[None], times[1:]])
        return times, xp.concatenate([times[1:], s[None]])

    def init(self, z: Array) -> Array:
        return z

    def step(self, z: Array, row: Row, noise: Array, denoise_fn: DenoiseFn) -> Array:
        z = row["raise_z"] * z + row["raise_noise"] * noise[0]
        return self._solver.step(z, row, noise, denoise_fn)

    def output(self, z: Array) -> Array:
        return z
