"""Restart: ODE steps, with noise added at some levels and taken out, repeatedly."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from diffusionflow import _xp as xp
from diffusionflow._dataclass import (
    check_below,
    check_bound,
    check_count,
    check_finite,
    check_name,
    check_not_negative,
    is_number,
    is_traced,
    register,
    static,
)
from diffusionflow._numeric import root
from diffusionflow.samplers.churn import power
from diffusionflow.samplers.ode import Heun, Row
from diffusionflow.samplers.raised import RaisedSteps
from diffusionflow.samplers.variables import VARIABLES
from diffusionflow.schedules import Schedule

MOST = 10_000  # steps of a round, and rounds
_KARRAS = 7  # the power of the levels inside an interval
_FIELDS = ("rho_min", "rho_max", "num_steps", "repeats")


@register
class Restart(RaisedSteps):
    """Restart sampler: Heun's method, and rounds through one interval or several.

    With rho = sigma / alpha: at the time of the grid whose rho is nearest to `rho_min`
    (and below `rho_max`), each of `repeats` rounds adds noise up to `rho_max`,

        z / alpha <- z / alpha + sqrt(rho_max^2 - rho^2) xi,

    and returns in `num_steps` Heun steps, at levels of equal distance in rho^(1/7). So
    the plan has `repeats num_steps` rows more than the grid has steps. No level is
    above that of t = 1.

    Of several intervals each number is a tuple, with the `rho_min` from the highest to
    the lowest, or one for all of them.

    Args:
      rho_min: where the rounds begin and end, at least 0.
      rho_max: to which noise is added, above `rho_min`.
      num_steps: of a round, at least 1.
      repeats: rounds, at least 0; 0 is Heun's method.
      variable: of Heun's method, one of `VARIABLES`.

    Raises:
      ValueError: a value is out of bounds, or there are not as many as intervals; in
        `plan`: the grid ends above a `rho_max`.

    Source: Xu et al. 2023, arXiv 2306.14878, algorithm 1; several intervals as in its
    section 4.

    Example: two rounds between 1 and 0.3, and one between 0.3 and 0.05.
      >>> sampler = Restart((0.3, 0.05), (1.0, 0.3), num_steps=3, repeats=(2, 1))
      >>> from diffusionflow import grids, samplers, schedules
      >>> rows = samplers.plan(
      ...     sampler, grids.uniform(20), schedule=schedules.FlowMatching()
      ... )
      >>> rows["raise_z"].shape
      (29,)
    """

    rho_min: float | Array | tuple[float | Array, ...] = 0.05
    rho_max: float | Array | tuple[float | Array, ...] = 1.0
    num_steps: int | tuple[int, ...] = static(default=4)
    repeats: int | tuple[int, ...] = static(default=2)
    variable: str = static(default="eps")

    def __post_init__(self) -> None:
        for name in _FIELDS:
            if isinstance(getattr(self, name), list):
                object.__setattr__(self, name, tuple(getattr(self, name)))
        check_name("variable", self.variable, VARIABLES)
        given = {name: getattr(self, name) for name in _FIELDS}
        counts = {len(value) for value in given.values() if isinstance(value, tuple)}
        if len(counts) > 1 or 0 in counts:
            shown = ", ".join(f"{name}={value!r}" for name, value in given.items())
            raise ValueError(
                f"{shown}: each must be one number, or as many as there are intervals"
            )
        before = float("inf")
        for low, high, num_steps, repeats in self._intervals():
            check_not_negative("rho_min", low)
            falls = lambda rho, before=before: rho <= before
            check_bound("rho_min", low, falls, f"at most that before it, {before}")
            check_below("rho_min", low, "rho_max", high)
            check_finite("rho_max", high)
            check_count("num_steps", num_steps, most=MOST)
            check_count("repeats", repeats, 0, most=MOST)
            before = low if is_number(low) else before

    def _intervals(self) -> list[tuple[Any, Any, int, int]]:
        """Returns `(rho_min, rho_max, num_steps, repeats)` of every interval."""
        values = [getattr(self, name) for name in _FIELDS]
        count = max(len(value) if isinstance(value, tuple) else 1 for value in values)
        each = [v if isinstance(v, tuple) else (v,) * count for v in values]
        return list(zip(*each, strict=True))

    @property
    def _solver(self) -> Heun:
        return Heun(self.variable)

    @xp.quiet
    def plan(self, t: Array, s: Array, schedule: Schedule) -> Row:
        intervals, added, before = self._intervals(), 0, 0
        row = np.arange(len(t) + sum(steps * rounds for *_, steps, rounds in intervals))
        begins, ends, passed = [], [], []
        for low, high, num_steps, repeats in intervals:
            step, top = _where(s, low, high, schedule)
            if not is_traced(step) and step < before:
                raise ValueError(
                    f"rho_min={self.rho_min!r}: on this grid the interval from {low:g} "
                    f"to {high:g} comes after step {step + 1}, before the one given "
                    "before it; take more steps or other intervals"
                )
            before = step
            place = row - step - 1 - added  # in the rounds
            added += num_steps * repeats
            inside = (place >= 0) & (place < num_steps * repeats)
            passed.append(xp.clip(place, 0, num_steps * repeats))
            inner_t, inner_s = _round(s[step], top, num_steps, schedule)
            inner = place % num_steps
            begins.append((inside, inner_t[inner], inside & (inner == 0), s[step], top))
            ends.append((inside, inner_s[inner]))
        outer = xp.clip(row - sum(passed), 0, t.shape[0] - 1)
        all_t, all_s = t[outer], s[outer]
        for inside, end in ends:
            all_s = xp.where(inside, end, all_s)
        for inside, begin, *_ in begins:
            all_t = xp.where(inside, begin, all_t)
        factor, noise = xp.ones_like(all_t), xp.zeros_like(all_t)
        alpha = schedule.alpha(all_t)
        for _, _, raised, end, top in begins:
            kept = schedule.alpha(end)
            rho = schedule.sigma(end) / kept
            factor = xp.where(raised, alpha / kept, factor)
            noise = xp.where(raised, alpha * root((top - rho) * (top + rho)), noise)
        rows = self._solver.plan(all_t, all_s, schedule)
        return dict(rows, raise_z=factor, raise_noise=noise)


def _where(s: Array, low: Any, high: Any, schedule: Schedule) -> tuple[Any, Array]:
    """Finds the step after which the rounds are, and rho to which noise is added."""
    one = xp.ones_like(s[0])
    end, top = schedule.alpha(one), xp.asarray(high, s.dtype)
    highest = schedule.sigma(one) / xp.where(end > 0, end, 1)
    top = xp.where(end > 0, xp.minimum(top, highest), top)
    rho = schedule.sigma(s) / schedule.alpha(s)
    if not is_traced(rho, top) and not rho[-1] < top:
        raise ValueError(
            f"rho_max={high!r}: must be above sigma / alpha at the last time of the "
            f"grid, {rho[-1]:.4g}"
        )
    distance = xp.where(rho < top, abs(rho - low), xp.inf)
    find = jnp.argmin if is_traced(distance) else np.argmin
    return find(distance), top


def _round(
    s: Array, top: Array, num_steps: int, schedule: Schedule
) -> tuple[Array, Array]:
    """Computes the times at which the steps of a round begin and end."""
    rho = schedule.sigma(s) / schedule.alpha(s)
    part = np.arange(num_steps) / num_steps
    first, last = (power(ends, 1 / _KARRAS) for ends in (top, rho))
    levels = (first + part.astype(s.dtype) * (last - first)) ** _KARRAS
    times = schedule.inverse_logsnr(-2 * xp.log(levels))
    one = xp.ones_like(s)
    at_end = top * schedule.alpha(one) >= schedule.sigma(one)
    begins = xp.where(at_end, one, times[0])  # exactly
    times = xp.concatenate([begins[None], times[1:]])
    return times, xp.concatenate([times[1:], s[None]])
