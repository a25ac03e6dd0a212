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
    tableau: Any
    variable: str

    def __post_init__(self) -> None:
        check_name("variable", self.variable, VARIABLES)

    def plan(self, t: Array, s: Array, schedule: Schedule) -> Row:
        tableau = self.tableau
        first = dict(t=t, **variables.euler(self.variable, t, s, schedule))
        if tableau == tableaus.EULER:
            return first
        full = variables.finite_step(self.variable, t, s, schedule)
        if 1 in tableau.c:
            full = full & (schedule.sigma(s) > 0)
            full = full & variables.finite_step(self.variable, s, t, schedule)
        calls = 1 + (len(tableau.c) - 1) * full.astype(np.int32)
        stages = later_stages(tableau, self.variable, t, s, full, schedule)
        return dict(euler=first, full=full, calls=calls, stages=stages)

    def init(self, z: Array) -> Array:
        return z

    def step(self, z: Array, row: Row, noise: Array, denoise_fn: DenoiseFn) -> Array:
        del noise
        if self.tableau == tableaus.EULER:
            return _euler(z, row, denoise_fn(z, row["t"]))
        denoised = denoise_fn(z, row["euler"]["t"])
        shorter = _euler(z, row["euler"], denoised)
        longer = lambda z: through_stages(z, row["stages"], denoised, denoise_fn)
        return jax.lax.cond(row["full"], longer, lambda z: shorter, z)

    def output(self, z: Array) -> Array:
        return z


def later_stages(
    tableau: tableaus.ButcherTableau,
    variable: str,
    t: Array,
    s: Array,
    full: Array,
    schedule: Schedule,
    clock: str | None = None,
) -> list[Row]:
    """Returns the rows of a step after its first evaluation.

    Entry i has the slope of stage i, the time of stage i + 1 and the factors that make
    its z; the last entry has those of the result.

    Args:
      tableau: any but Euler's.
      variable: one of `VARIABLES`.
      t: `[num_steps]`.
      s: `[num_steps]`.
      full: where the step is taken; elsewhere a placeholder has finite coefficients.
      schedule: any.
      clock: the variable in whose clock the nodes are places; `variable` if None. With
        another one the weights are shares of the way to a stage, as in pseudo
        Runge-Kutta methods.
    """
    middle = (t + s) / 2
    t, s = xp.where(full, t, middle), xp.where(full, s, middle)
    at, rows = t, []
    c, a, b = tableau
    for node, weights in zip((*c[1:], 1.0), (*a[1:], b), strict=True):
        row = dict(zip("ab", variables.slope(variable, at, schedule), strict=True))
        at = variables.between(clock or variable, t, s, node, schedule)
        if weights[0] == node and not any(weights[1:]):
            # the first slope alone, in the form that is finite at ends
            row |= variables.euler(variable, t, at, schedule)
        else:
            ratio, gain = variables.ratio_and_gain(variable, t, at, schedule)
            shares = xp.asarray(weights, gain.dtype) / node
            row |= dict(z=ratio, slopes=gain[:, None] * shares[None])
        rows.append(row | dict(t=at))
    return rows


def through_stages(
    z: Array, rows: list[Row], denoised: Denoised, denoise_fn: DenoiseFn
) -> Array:
    """Returns z at the end of a step, by `later_stages` and its first evaluation."""
    latest, slopes, at = denoised, [], z
    for number, stage in enumerate(rows):
        if number:
            latest = denoise_fn(at, rows[number - 1]["t"])
        slopes.append(stage["a"] * latest.x + stage["b"] * latest.eps)
        if "x" in stage:
            at = _euler(z, stage, denoised)
        else:
            pairs = zip(stage["slopes"], slopes, strict=True)
            at = stage["z"] * z + sum(weight * k for weight, k in pairs)
    return at


def _euler(z: Array, row: Row, denoised: Denoised) -> Array:
    return row["z"] * z + row["x"] * denoised.x + row["eps"] * denoised.eps


@register
class RungeKutta(_RungeKutta):
    """Any explicit Runge-Kutta method, by its Butcher tableau.

    Args:
      method: a name in `tableaus.NAMED` ("heun3", "three_eighths", "ralston",
        "bogacki_shampine", "dormand_prince", ...) or a `tableaus.ButcherTableau`. Of
        embedded pairs it is the solution that is propagated.
      variable: one of `VARIABLES`.

    Raises:
      ValueError: a name is unknown, or the tableau is not explicit and consistent.

    Example: Heun's method of order 3.
      >>> from diffusionflow import grids, samplers, schedules
      >>> sampler = samplers.RungeKutta("heun3", "u")
      >>> flow = schedules.FlowMatching()
      >>> samplers.plan(sampler, grids.uniform(2), schedule=flow)["calls"].tolist()
      [3, 3]
    """

    method: Any = static(default="heun3")
    variable: str = static(default="dz_dt")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.method, str):
            tableau = tableaus.as_tableau(self.method)
            object.__setattr__(self, "method", tableau)  # hashable
        tableaus.as_tableau(self.method)

    @property
    def tableau(self) -> tableaus.ButcherTableau:
        return tableaus.as_tableau(self.method)


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
