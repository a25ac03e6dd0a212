"""Runge-Kutta solvers of the probability-flow ODE in a variable of choice.

The variables, and what is a clock, a scale and a slope, are in `variables`. With
`H = clock_s - clock_t`, nodes c, a lower triangle A and weights b,

    k_i = slope(z_i at clock_t + c_i H),
    z_i / scale_i = z_t / scale_t + H sum_j A_ij k_j,
    z_s / scale_s = z_t / scale_t + H sum_j b_j k_j.

Where this cannot be done the step is Euler's, with one evaluation: in "x" to sigma = 0
and in "eps" from alpha = 0, where the clock is infinite, and to sigma = 0 in every
variable for solvers that evaluate at s (there x would have to be inferred from z
alone). In "dz_dt" it is DDIM's where alpha' or sigma' is infinite, as at t = 1 of
`Sigmoid`.
"""

from typing import Any

import jax
import numpy as np
from jax import Array

from diffusionflow import _xp as xp
from diffusionflow._dataclass import check_name, register, static
from diffusionflow.predictions import Denoised, DenoiseFn
from diffusionflow.samplers import tableaus, variables
from diffusionflow.samplers.variables import VARIABLES
from diffusionflow.schedules import Schedule

Row = dict[str, Any]


class _RungeKutta:
    """An explicit method given by its Butcher tableau."""

    num_noises = 0
    tableau: tableaus.ButcherTableau
    variable: str

    def __post_init__(self) -> None:
        check_name("variable", self.variable, VARIABLES)

    def plan(self, t: Array, s: Array, schedule: Schedule) -> Row:
        first = dict(t=t, **variables.euler(self.variable, t, s, schedule))
        if self.tableau == tableaus.EULER:
            return first
        full = variables.finite_step(self.variable, t, s, schedule)
        if 1 in self.tableau.c:
            full = full & (schedule.sigma(s) > 0)
            full = full & variables.finite_step(self.variable, s, t, schedule)
        middle = (t + s) / 2  # placeholder where a coefficient or its slope is infinite
        start, end = xp.where(full, t, middle), xp.where(full, s, middle)
        stages = self._stages(start, end, schedule)
        calls = 1 + (len(self.tableau.c) - 1) * full.astype(np.int32)
        return dict(euler=first, full=full, calls=calls, stages=stages)

    def _stages(self, t: Array, s: Array, schedule: Schedule) -> list[Row]:
        """Rows after the first evaluation: a level, its slope, and how to reach it.

        Entry i has the time and the slope of stage i + 1 and the factors that make its
        z; the last entry has those of the result alone.
        """
        at, rows = t, []
        c, a, b = self.tableau
        for node, weights in zip((*c[1:], 1.0), (*a[1:], b), strict=True):
            row = dict(
                zip("ab", variables.slope(self.variable, at, schedule), strict=True)
            )
            at = variables.between(self.variable, t, s, node, schedule)
            if _is_euler_step(node, weights):  # in the form that is finite at ends
                row |= variables.euler(self.variable, t, at, schedule)
            else:
                ratio, gain = variables.ratio_and_gain(self.variable, t, at, schedule)
                shares = xp.asarray(weights, gain.dtype) / node
                row |= dict(z=ratio, slopes=gain[:, None] * shares[None])
            rows.append(row | dict(t=at))
        return rows

    def init(self, z: Array) -> Array:
        return z

    def step(self, z: Array, row: Row, noise: Array, denoise_fn: DenoiseFn) -> Array:
        del noise
        single = self.tableau == tableaus.EULER
        first = row if single else row["euler"]
        denoised = denoise_fn(z, first["t"])
        shorter = _euler(z, first, denoised)
        if single:
            return shorter

        def longer(z: Array) -> Array:
            latest, slopes = denoised, []
            for stage in row["stages"]:
                slopes.append(stage["a"] * latest.x + stage["b"] * latest.eps)
                if "x" in stage:
                    at = _euler(z, stage, denoised)
                else:
                    pairs = zip(stage["slopes"], slopes, strict=True)
                    at = stage["z"] * z + sum(weight * k for weight, k in pairs)
                if stage is not row["stages"][-1]:
                    latest = denoise_fn(at, stage["t"])
            return at

        return jax.lax.cond(row["full"], longer, lambda z: shorter, z)

    def output(self, z: Array) -> Array:
        return z


def _is_euler_step(node: float, weights: tuple[float, ...]) -> bool:
    """Whether a stage is reached with the first slope alone."""
    return weights[0] == node


def _euler(z: Array, row: Row, denoised: Denoised) -> Array:
    return row["z"] * z + row["x"] * denoised.x + row["eps"] * denoised.eps


@register
class Euler(_RungeKutta):
    """Euler's method, order 1.

    `z_s = scale_s (z_t / scale_t + (clock_s - clock_t) slope_t)`.

    Args:
      variable: one of `VARIABLES`.

    Raises:
      ValueError: the variable is unknown.
    """

    variable: str = static(default="dz_dt")
    tableau = tableaus.EULER


@register
class Midpoint(_RungeKutta):
    """Midpoint method, order 2: the slope at the clock's middle, by an Euler step.

    Args:
      variable: one of `VARIABLES`.

    Raises:
      ValueError: the variable is unknown.
    """

    variable: str = static(default="dz_dt")
    tableau = tableaus.MIDPOINT


@register
class Heun(_RungeKutta):
    """Heun's method, order 2: averages the slopes at t and, after an Euler step, at s.

    Args:
      variable: one of `VARIABLES`; "eps" is the sampler of EDM on every schedule.

    Raises:
      ValueError: the variable is unknown.

    Source: Karras et al. 2022, arXiv 2206.00364, algorithm 1, in any variable.
    """

    variable: str = static(default="dz_dt")
    tableau = tableaus.HEUN


@register
class RK4(_RungeKutta):
    """The classical Runge-Kutta method of order 4, four evaluations a step.

    Args:
      variable: one of `VARIABLES`.

    Raises:
      ValueError: the variable is unknown.
    """

    variable: str = static(default="dz_dt")
    tableau = tableaus.RK4
