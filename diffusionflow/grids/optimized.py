"""Computes the sampling grid of a model, a sampler and a number of steps."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from jax import Array

from diffusionflow._dataclass import check_bound, check_count
from diffusionflow.grids import equal_calls, refinement
from diffusionflow.grids.checks import check_grid
from diffusionflow.grids.end_points import EndPoints
from diffusionflow.predictions import DenoiseFn
from diffusionflow.schedules import Schedule, as_schedule

OPTIMIZED = "optimized"
FEWEST = 32  # starts
NUM_STARTS = 2  # fixed grids from which the search begins


class Measured(NamedTuple):
    """The error of a grid on noise that no choice has seen.

    Fields:
      name: of a fixed grid, or `"optimized"`.
      times: float64, falling.
      evaluations: of the denoiser, that of a step to the data included.
      error: mean distance of the end points to the reference's.
      standard_error: of the mean.
    """

    name: str
    times: np.ndarray
    evaluations: int
    error: float
    standard_error: float


class Optimized(NamedTuple):
    """The grid that `optimize` chose, and how it compares.

    Fields:
      times: the grid, float64, falling.
      chosen: its name: `"optimized"`, or that of the best fixed grid.
      measured: the optimised grid, then the fixed ones.
      best_fixed: name of the best fixed grid on the noise of the search.
      difference: mean of the error of the optimised grid less that of the best fixed
        one, on the same noise.
      difference_error: standard error of it.
      reference_error: mean distance of two references on different grids: errors near
        it are not known.
    """

    times: np.ndarray
    chosen: str
    measured: tuple[Measured, ...]
    best_fixed: str
    difference: float
    difference_error: float
    reference_error: float


def optimize(
    denoise_fn: DenoiseFn,
    z: Array,
    num_steps: int,
    *,
    sampler: Any,
    schedule: Schedule,
    t_max: float = 1.0,
    candidates: Mapping[str, np.ndarray] | None = None,
    num_parameters: int = 8,
    max_evaluations: int = 120,
    reference_steps: int = 128,
    seed: int = 0,
) -> Optimized:
    """Computes the grid with the least error of a model, a sampler and a budget.

    The error is the mean, over starts, of the root mean square distance between the
    sampler's end point and that of a fine reference from the same start. It is not
    squared: a few samples that end elsewhere would decide it. Half of the starts are
    minimised over, a quarter selects among the grids that the search passed, and a
    quarter compares the result with the best fixed grid, which is returned unless the
    optimised one is better by more than a standard error of their difference.

    The search starts from the best fixed grids and changes the logarithms of their
    steps smoothly, with few parameters (`refinement`). Plans are data, so that the
    model is compiled once for each number of steps, inside this call.

    Args:
      denoise_fn: `(z, t) -> Denoised`, guidance included; labels that it holds belong
        to the rows of `z`. It is called with all of `z`.
      z: starts at `t_max`, such as `samplers.prior(key, (256, *event), ...)`.
      num_steps: steps to the data, at least 2, that of `samplers.sample` from a grid
        that ends above sigma = 0 included; the network calls of a one-call sampler.
      sampler: deterministic.
      schedule: the one of `denoise_fn`.
      t_max: time of `z`.
      candidates: fixed grids by name, such as those of `grids.candidates`, the default.
        One that takes more evaluations than the first is measured and never chosen.
      num_parameters: of the search, at most.
      max_evaluations: grids that the search tries, from two starts together; each
        takes `num_steps` calls of `denoise_fn`. Of k parameters it needs `4 k + 6`:
        with fewer the fixed grids are compared and none is changed.
      reference_steps: calls of each of the two references.
      seed: of the division of the starts.

    Returns:
      `Optimized`.

    Raises:
      ValueError: the sampler adds noise, there are too few steps, starts or grids, or
        `denoise_fn` is singular at `t_max` or belongs to another schedule.

    Example:
      >>> import jax
      >>> from diffusionflow import analytic, samplers, schedules
      >>> flow = schedules.FlowMatching()
      >>> denoise_fn = analytic.gaussian(np.zeros(2), 0.25).denoise_fn(schedule=flow)
      >>> z = samplers.prior(jax.random.key(0), (64, 2), schedule=flow)
      >>> found = optimize(denoise_fn, z, 3, sampler=samplers.ddim(), schedule=flow)
      >>> found.chosen, len(found.times)
      ('optimized', 4)

    Source: the idea of a grid for one model is that of Sabour et al. 2024, arXiv
    2404.14507 (Align Your Steps), and Xue et al. 2024, arXiv 2402.17376, there by
    bounds on the error in place of the error.
    """
    from diffusionflow import samplers  # which need the grids

    equal_calls.check_budget(num_steps)
    schedule = as_schedule(schedule)
    _check_numbers(z, num_parameters, max_evaluations, reference_steps)
    if candidates is None:
        candidates = equal_calls.candidates(num_steps, schedule=schedule, t_max=t_max)
    given = {name: np.asarray(check_grid(each)) for name, each in candidates.items()}
    for name, times in given.items():
        starts = f"at most t_max={t_max}, the time of z"
        check_bound(f"candidates[{name!r}][0]", times[0], lambda t: t <= t_max, starts)
    check_bound("candidates", len(given), lambda n: n > 0, "at least one grid")
    samplers.steps.check_sampler(sampler)
    ends = EndPoints(
        denoise_fn,
        z,
        schedule=schedule,
        t_max=t_max,
        reference_steps=reference_steps,
    )
    ends.check_deterministic(sampler, next(iter(given.values())))
    return Search(ends, sampler, given, seed).result(num_parameters, max_evaluations)


class Search:
    """A search of the best grid, with its division of the starts in three.

    One part is minimised over, one selects among the grids that the search passed, one
    has been seen by neither.

    Args:
      ends: of the starts.
      sampler: whose grid is computed.
      given: the fixed grids by name.
      seed: of the division.
    """

    def __init__(
        self,
        ends: EndPoints,
        sampler: Any,
        given: Mapping[str, np.ndarray],
        seed: int,
    ) -> None:
        count = len(ends.reference)
        order = np.random.RandomState(seed).permutation(count)
        self._ends, self._sampler, self._given = ends, sampler, given
        self._known: dict[tuple[float, ...], np.ndarray] = {}
        self._own, self._held_out, self._unseen = np.split(
            order, [count // 2, 3 * count // 4]
        )

    def result(self, num_parameters: int, max_evaluations: int) -> Optimized:
        """Refines the best fixed grids, and compares the best of what comes out."""
        tries = max_evaluations // NUM_STARTS
        tried = [
            self.refined(name, num_parameters, tries)
            for name in self.ranked()[:NUM_STARTS]
        ]
        return self.compared(min(tried, key=self.error))

    def distances(self, times: np.ndarray) -> np.ndarray:
        """Computes the distances of all starts, once for each grid."""
        place = tuple(times)
        if place not in self._known:
            self._known[place] = self._ends.distances(self._sampler, times)
        return self._known[place]

    def error(self, times: np.ndarray) -> float:
        """Computes the mean over all but the unseen starts."""
        seen = np.append(self._own, self._held_out)
        return float(np.mean(self.distances(times)[seen]))

    def ranked(self) -> list[str]:
        """Ranks the grids that take no more calls than the first, best first."""
        calls = {
            name: self._ends.evaluations(self._sampler, self._given[name])
            for name in self._given
        }
        most = next(iter(calls.values()))
        usable = [name for name in calls if calls[name] <= most]
        return sorted(usable, key=lambda name: self.error(self._given[name]))

    def refined(self, name: str, num_parameters: int, tries: int) -> np.ndarray:
        """Searches the best grid near a fixed one."""

        def error_fn(times: np.ndarray) -> tuple[float, float]:
            found = self.distances(times)
            return float(found[self._own].mean()), float(found[self._held_out].mean())

        return refinement.refined(
            error_fn,
            self._given[name],
            ends_noisy=self._ends.ends_noisy(self._given[name]),
            num_parameters=num_parameters,
            max_evaluations=tries,
        )

    def compared(self, times: np.ndarray) -> Optimized:
        """Compares an optimised grid with the fixed ones on unseen starts."""
        every = {OPTIMIZED: times, **self._given}
        unseen = {
            name: self.distances(each)[self._unseen] for name, each in every.items()
        }
        best_fixed = self.ranked()[0]
        difference = _mean(unseen[OPTIMIZED] - unseen[best_fixed])
        chosen = OPTIMIZED if difference[0] < -difference[1] else best_fixed
        measured = tuple(
            Measured(
                name,
                each,
                self._ends.evaluations(self._sampler, each),
                *_mean(unseen[name]),
            )
            for name, each in every.items()
        )
        return Optimized(
            every[chosen],
            chosen,
            measured,
            best_fixed,
            *difference,
            self._ends.reference_error,
        )


def _check_numbers(
    z: Array, num_parameters: int, max_evaluations: int, reference_steps: int
) -> None:
    count = np.shape(z)[0] if np.ndim(z) else 0
    enough = lambda n: n >= FEWEST
    way = "pass more starts, such as samplers.prior(key, (256, *event), ...)"
    check_bound("len(z)", count, enough, f"at least {FEWEST}", way)
    check_count("num_parameters", num_parameters)
    check_count("max_evaluations", max_evaluations)
    check_count("reference_steps", reference_steps, 8)


def _mean(values: np.ndarray) -> tuple[float, float]:
    """Computes the mean and its standard error."""
    return float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values)))
