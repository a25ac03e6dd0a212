"""Optimises the coefficients of a deterministic sampler for one model and grid."""

from typing import Any, NamedTuple

import numpy as np
from jax import Array
from jax.typing import ArrayLike

from diffusionflow import grids
from diffusionflow._dataclass import check_bound, check_count
from diffusionflow.grids.end_points import EndPoints
from diffusionflow.predictions import DenoiseFn
from diffusionflow.samplers import base, steps
from diffusionflow.samplers.coefficient_search import Search
from diffusionflow.samplers.consistency import Consistency, consistency
from diffusionflow.samplers.fixed_plan import FixedPlan
from diffusionflow.schedules import Schedule, as_schedule

FEWEST = 32  # starts
EXACT = 1e-6  # errors of consistency up to it are reported as exact


class Bespoke(NamedTuple):
    """Optimised coefficients, and how the sampler with them compares.

    Errors are mean distances of end points to the reference's on noise that no choice
    has seen, each with its standard error.

    Fields:
      sampler: `FixedPlan`, or the given sampler where it was not beaten.
      chosen: `"optimized"`, or `"start"` where the given sampler was not beaten.
      num_parameters: of the search.
      before: error of the given sampler.
      after: error with the optimised coefficients, chosen or not.
      difference: mean of `after` less `before`, on the same noise.
      consistency_before: of the given sampler on this grid.
      consistency: of `sampler`.
      reference_error: mean distance of two references on different grids: errors of
        this size are not resolved.
      validity: what `sampler` is valid for, in words.
    """

    sampler: Any
    chosen: str
    num_parameters: int
    before: tuple[float, float]
    after: tuple[float, float]
    difference: tuple[float, float]
    consistency_before: Consistency
    consistency: Consistency
    reference_error: float
    validity: str


def optimize_coefficients(
    denoise_fn: DenoiseFn,
    z: Array,
    times: ArrayLike,
    *,
    sampler: Any,
    schedule: Schedule,
    num_parameters: int = 32,
    max_evaluations: int = 200,
    reference_steps: int = 128,
    seed: int = 0,
) -> Bespoke:
    """Optimises the coefficients of a deterministic sampler for one model and grid.

    The result is a bespoke non-stationary solver: every step has coefficients of its
    own, those of the given sampler are the start, and the times at which the model is
    evaluated are kept (`grids.optimize` chooses them). The error is that of
    `grids.optimize`, the mean over starts of the root mean square distance to the end
    point of a fine reference; the search makes it quadratic near 0 (pseudo-Huber).

    Half of the starts are minimised over by L-BFGS, with gradients through the plan. A
    quarter selects among the coefficients that it passed, and a quarter compares them
    with the given ones, which are returned unless the optimised ones are better by more
    than a standard error of the difference. The parameters are the changes of all
    coefficients together that move the end points most, to first order: many columns
    of a plan have the same effect.

    The result is for these steps, this schedule and this model alone. It has no order
    of convergence, and in general it is not even consistent: see `consistency`.

    Args:
      denoise_fn: `(z, t) -> Denoised`, guidance included; labels that it holds belong
        to the rows of `z`. It is called with all of `z`, and differentiated in `z`: the
        activations of all steps must fit in memory, and at one time the derivatives of
        half of the end points by each coefficient of the plan, `coefficients * z.size /
        2` numbers in float64. It needs forward and reverse mode: a fused attention has
        only the second.
      z: starts at `times[0]`, such as `samplers.prior(key, (256, *event), ...)`.
      times: timestep schedule (sampling grid), `[num_steps + 1]`, falling.
      sampler: deterministic, such as `samplers.ddim()`.
      schedule: the one of `denoise_fn`.
      num_parameters: of the search, at most.
      max_evaluations: of error and gradient.
      reference_steps: calls of each of the two references.
      seed: of the division of the starts.

    Returns:
      `Bespoke`.

    Raises:
      ValueError: the sampler adds noise or chooses its steps itself, there are too few
        starts, or `denoise_fn` is singular on the grid, has no finite derivatives there
        or belongs to another schedule.

    Example: a Gaussian is exact in one step.
      >>> import jax
      >>> from diffusionflow import analytic, grids, samplers, schedules
      >>> flow, times = schedules.FlowMatching(), grids.uniform(1)
      >>> denoise_fn = analytic.gaussian(np.zeros(2), 0.25).denoise_fn(schedule=flow)
      >>> z = samplers.prior(jax.random.key(0), (64, 2), schedule=flow)
      >>> found = optimize_coefficients(
      ...     denoise_fn, z, times, sampler=samplers.ddim(), schedule=flow
      ... )
      >>> found.chosen, round(found.consistency.constant, 2)  # not for other data
      ('optimized', 0.5)

    Source: Shaul et al. 2024, arXiv 2403.01329 (non-stationary solvers), and 2023,
    arXiv 2310.19075 (Bespoke solvers, which stay consistent). They minimise squared
    distances over other parametrisations.
    """
    schedule, times = as_schedule(schedule), np.asarray(grids.check_grid(times))
    _check(sampler, z, num_parameters, max_evaluations, reference_steps)
    ends = EndPoints(
        denoise_fn,
        z,
        schedule=schedule,
        t_max=float(times[0]),
        reference_steps=reference_steps,
    )
    ends.check_deterministic(sampler, times)
    rows = base.plan(sampler, times, schedule=schedule)
    start = FixedPlan(sampler, times, rows, schedule)
    own, held_out, unseen = _split(len(ends.reference), seed)
    search = Search(ends, start, own, num_parameters)
    found = search.minimize(held_out, max_evaluations)
    distances = [ends.distances(each, times)[unseen] for each in (start, found)]
    if not np.isfinite(distances[0]).all():
        raise ValueError(
            f"sampler={sampler!r}: must have finite end points on the grid; take more "
            "steps, or another sampler"
        )
    return _compared(sampler, start, found, distances, search.count, ends)


def _compared(
    sampler: Any,
    start: FixedPlan,
    found: FixedPlan,
    distances: list[np.ndarray],
    count: int,
    ends: EndPoints,
) -> Bespoke:
    """Chooses between start and optimised coefficients on unseen starts."""
    before, after = distances
    mean, error = difference = _mean(after - before)
    better = mean < -error
    of = lambda each: consistency(each, start.times, schedule=start.schedule)
    first = of(start)
    last = of(found) if better else first
    steps = len(np.asarray(start.times)) - 1
    return Bespoke(
        sampler=found if better else sampler,
        chosen="optimized" if better else "start",
        num_parameters=count,
        before=_mean(before),
        after=_mean(after),
        difference=difference,
        consistency_before=first,
        consistency=last,
        reference_error=ends.reference_error,
        validity=_validity(better, steps, last),
    )


def _validity(better: bool, num_steps: int, errors: Consistency) -> str:
    """Says what the result is valid for."""
    missed = [
        f"{name} u_hat " + ("exact" if error < EXACT else f"missed by {error:.2g}")
        for name, error in zip(errors._fields, errors, strict=True)
    ]
    if not better:
        return (
            "the given sampler, which no optimised coefficients beat on unseen noise; "
            f"with num_steps={num_steps}: {', '.join(missed)}"
        )
    return (
        "valid for this model, schedule and grid of "
        f"num_steps={num_steps} only, without an order of convergence: "
        f"{', '.join(missed)}"
    )


def _split(count: int, seed: int) -> list[np.ndarray]:
    """Splits the starts: a half, a quarter and a quarter."""
    order = np.random.RandomState(seed).permutation(count)
    return np.split(order, [count // 2, 3 * count // 4])


def _check(
    sampler: Any,
    z: Array,
    num_parameters: int,
    max_evaluations: int,
    reference_steps: int,
) -> None:
    if callable(sampler) and not hasattr(sampler, "plan"):
        raise ValueError(
            f"sampler={getattr(sampler, '__name__', sampler)}: must be one whose steps "
            "are a plan, such as samplers.ddim(); an adaptive solver has none"
        )
    steps.check_sampler(sampler)
    count = np.shape(z)[0] if np.ndim(z) else 0
    way = "pass more starts, such as samplers.prior(key, (256, *event), ...)"
    check_bound("len(z)", count, lambda n: n >= FEWEST, f"at least {FEWEST}", way)
    check_count("num_parameters", num_parameters)
    check_count("max_evaluations", max_evaluations)
    check_count("reference_steps", reference_steps, 8)


def _mean(values: np.ndarray) -> tuple[float, float]:
    """Computes the mean and its standard error."""
    return float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values)))
