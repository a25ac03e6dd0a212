"""Measures sampling error against NFE, on a mixture with its exact denoiser."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike
from scipy import stats

from diffusionflow import analytic, grids, random, samplers, schedules

NUM_STEPS = (5, 10, 20, 40, 80)
NUM_STARTS = 20_000
SAMPLERS = {
    "DDIM": samplers.ddim(),
    "DDPM": samplers.ddpm(),
    "Heun, in u": samplers.Heun("u"),
    "DPM-Solver++(2M)": samplers.DPMSolver(2),
    "DPM-Solver++(3M)": samplers.DPMSolver(3),
    "UniPC-2": samplers.UniPC(2),
    "RK4, in u": samplers.RK4("u"),
}


class Point(NamedTuple):
    """A sampler's error at a number of function evaluations."""

    nfe: int
    error: float


class Samples(NamedTuple):
    """Samples started from quantiles of the prior, with those of the data.

    Fields:
      nfe: function evaluations per sample.
      x: in rising order, `[num_starts]`, NumPy float64.
      exact: quantiles of the data, `[num_starts]`.
    """

    nfe: int
    x: np.ndarray
    exact: np.ndarray

    @property
    def error(self) -> float:
        """Computes the Wasserstein-2 distance of the samples to the data."""
        return float(np.sqrt(np.mean((self.x - self.exact) ** 2)))


def mixture() -> analytic.Mixture:
    """Makes a mixture of three modes of different width, in one dimension."""
    return analytic.Mixture(
        np.array([0.3, 0.5, 0.2]),
        np.array([-2.0, 0.5, 3.0]),
        np.array([0.04, 0.25, 0.01]),
    )


def quantiles(data: analytic.Mixture, count: int) -> np.ndarray:
    """Computes quantiles of a 1-D mixture at `(i + 1/2) / count`, by bisection."""
    wanted = (np.arange(count) + 0.5) / count
    widest = 10 * np.sqrt(np.max(data.variances))
    low = np.full(count, np.min(data.means) - widest)
    high = np.full(count, np.max(data.means) + widest)
    for _ in range(60):
        middle = (low + high) / 2
        spread = (middle[:, None] - data.means) / np.sqrt(data.variances)
        below = stats.norm.cdf(spread) @ data.weights < wanted
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return (low + high) / 2


def runs_against_nfe(
    sampler: Any,
    data: analytic.Mixture,
    *,
    num_steps: tuple[int, ...] = NUM_STEPS,
    num_starts: int = NUM_STARTS,
    schedule: schedules.Schedule | None = None,
    grid_fn: Callable[[int], np.ndarray] = grids.uniform,
) -> list[Samples]:
    """Samples a mixture with its exact denoiser, for several numbers of steps.

    Starts are quantiles of the prior, so that a deterministic sampler has the error of
    its discretisation alone. A stochastic one has at least the sampling error of as
    many independent draws.

    Args:
      sampler: of the library.
      data: a mixture in one dimension, events of shape (), weights of sum 1.
      num_steps: of the grids.
      num_starts: samples.
      schedule: flow matching by default.
      grid_fn: from a number of steps to times.

    Returns:
      A `Samples` for each of `num_steps`, computed in float64.
    """
    schedule = schedules.FlowMatching() if schedule is None else schedule
    exact, runs = quantiles(data, num_starts), []
    with jax.enable_x64(True):
        noise = stats.norm.ppf((np.arange(num_starts) + 0.5) / num_starts)
        for count in num_steps:
            times = grid_fn(count)
            z = schedule.sigma(times[0]) * noise
            nfe, x = _steps(sampler, data, z, times, schedule)
            runs.append(Samples(nfe, np.sort(x), exact))
    return runs


def _steps(
    sampler: Any,
    data: analytic.Mixture,
    z: np.ndarray,
    times: np.ndarray,
    schedule: schedules.Schedule,
) -> tuple[int, np.ndarray]:
    """Runs `samplers.sample` step by step: one compilation for all numbers of steps."""
    rows = samplers.plan(sampler, times, schedule=schedule)
    count = len(jax.tree.leaves(rows)[0])
    calls = rows.get("calls", np.ones(count)) if isinstance(rows, dict) else None
    if calls is None:
        raise ValueError(f"sampler={sampler}: its plan must be a dictionary of columns")
    state, key = sampler.init(jnp.asarray(z)), jax.random.key(0)
    for number in range(count):
        row = jax.tree.map(lambda column, number=number: column[number], rows)
        state = _step(sampler, data, state, row, key, number, schedule)
    x, nfe = sampler.output(state), int(np.sum(calls))
    if float(schedule.sigma(times[-1])) > 0:
        x = data.denoise_fn(schedule=schedule)(x, times[-1]).x
        nfe += 1
    return nfe, np.asarray(x)


@jax.jit
def _step(
    sampler: Any,
    data: analytic.Mixture,
    state: Any,
    row: Any,
    key: Array,
    number: ArrayLike,
    schedule: schedules.Schedule,
) -> Any:
    z = sampler.output(state)
    draws = jnp.zeros((0, *z.shape), z.dtype)
    if sampler.num_noises:
        draws = random.Independent().draw(key, number, sampler.num_noises, z)
    return sampler.step(state, row, draws, data.denoise_fn(schedule=schedule))


def errors_against_nfe(
    sampler: Any, data: analytic.Mixture, **settings: Any
) -> list[Point]:
    """Computes Wasserstein-2 distances of samples to the data.

    Args:
      sampler: of the library.
      data: as for `runs_against_nfe`.
      **settings: of `runs_against_nfe`.

    Returns:
      A `Point` for each of `num_steps`.
    """
    runs = runs_against_nfe(sampler, data, **settings)
    return [Point(run.nfe, run.error) for run in runs]
