"""Refines a grid by a few smooth changes of its steps."""

from collections.abc import Callable

import numpy as np

FARTHEST = 1.5  # of each change of log steps
RADII = (0.4, 0.02)  # of the trust region, first and last


def refined(
    error_fn: Callable[[np.ndarray], tuple[float, float]],
    start: np.ndarray,
    *,
    ends_noisy: bool,
    num_parameters: int,
    max_evaluations: int,
) -> np.ndarray:
    """Searches the grid of the least error near a grid.

    The logarithms of the steps, that from the last time to 0 among them, change by
    cosines of low order in the number of the step. A trust-region method with quadratic
    models (COBYQA) chooses their coefficients: it needs errors alone, so that the
    sampler is not differentiated and no other program is compiled.

    Args:
      error_fn: `times -> (error that is minimised, error on held-out noise)`.
      start: times; the first of them is kept.
      ends_noisy: whether sigma > 0 at the last time, which then moves, too.
      num_parameters: cosines, at most.
      max_evaluations: grids that are tried; `start` comes back where they are at most
        two for each coefficient and two more.

    Returns:
      Of the grids that had the least error so far when they were tried, the one with
      the least error on held-out noise: `start` where that is never less.
    """
    from scipy import optimize

    times_fn, count = moves(start, ends_noisy, num_parameters)
    path: list[tuple[float, float, np.ndarray]] = []

    def error(change: np.ndarray) -> float:
        times = times_fn(change)
        own, held_out = error_fn(times)
        if not path or own < path[-1][0]:
            path.append((own, held_out, times))
        return own if np.isfinite(own) else 10 * path[0][0]

    path.append((*error_fn(start), start))
    if count and max_evaluations > 2 * count + 2:
        first, last = RADII
        optimize.minimize(
            error,
            np.zeros(count),
            method="COBYQA",
            bounds=[(-FARTHEST, FARTHEST)] * count,
            options=dict(
                maxfev=max_evaluations, initial_tr_radius=first, final_tr_radius=last
            ),
        )
    return min(path, key=lambda each: each[1])[2]


def moves(
    start: np.ndarray, ends_noisy: bool, num_parameters: int
) -> tuple[Callable[[np.ndarray], np.ndarray], int]:
    """Makes the grids near a grid: `(coefficients -> times, number of coefficients)`.

    Args:
      start: times.
      ends_noisy: whether its last time moves; else that is kept.
      num_parameters: coefficients, at most; one less than the steps reach every grid.

    Returns:
      `(times_fn, count)`; coefficients of 0 give `start`.
    """
    steps = -np.diff(np.append(start, 0.0) if ends_noisy else start)
    if ends_noisy and steps[-1] == 0:
        steps[-1] = steps[:-1].mean() / 2
    total = start[0] - (0.0 if ends_noisy else start[-1])
    count = min(num_parameters, len(steps) - 1)
    place = (np.arange(len(steps)) + 0.5) / len(steps)
    cosines = np.cos(np.pi * place[:, None] * np.arange(1, count + 1))

    def times_fn(change: np.ndarray) -> np.ndarray:
        moved = np.log(steps) + cosines @ change
        parts = np.exp(moved - moved.max())
        inner = start[0] - np.cumsum(parts)[:-1] * (total / parts.sum())
        inner = np.append(start[0], inner)
        return inner if ends_noisy else np.append(inner, start[-1])

    return times_fn, count
