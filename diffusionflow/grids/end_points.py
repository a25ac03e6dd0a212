"""Distances of end points to those of a fine reference, of any sampler and grid."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax import Array

from diffusionflow.grids import equal_calls
from diffusionflow.grids.checks import check_grid
from diffusionflow.predictions import DenoiseFn, Denoiser, as_data, as_denoiser
from diffusionflow.schedules import Schedule, as_schedule


class EndPoints:
    """Samples from fixed starts, and their distances to a reference's.

    The distance of a sample is the root mean square of the difference over its event.
    The reference is the probability-flow ODE from the same starts. Programs are
    compiled once for each number of steps, and forgotten with this object.

    Args:
      denoise_fn: `(z, t) -> Denoised`.
      z: starts at `t_max`, `[n, *event]`.
      schedule: the one of `denoise_fn`.
      t_max: time of `z`; a grid that begins later begins with as much less noise.
      reference_steps: of the reference, each of one evaluation.

    Raises:
      ValueError: from `samplers.run` and the checks of `denoise_fn`; the reference is
        not finite.
    """

    def __init__(
        self,
        denoise_fn: DenoiseFn,
        z: Array,
        *,
        schedule: Schedule,
        t_max: float,
        reference_steps: int,
    ) -> None:
        from diffusionflow import samplers  # which need the grids

        self._schedule, self._t_max = schedule, t_max
        self._z = as_data(z, "z")
        self._denoiser = as_denoiser(
            denoise_fn, like=self._z, schedule=as_schedule(schedule)
        )
        self._program = jax.jit(
            lambda *arguments: _program(*arguments)  # a function of its own: own cache
        )
        line = np.linspace(1, 0, reference_steps + 1)
        dense = line**2 / (line**2 + (1 - line) ** 2)  # short steps at both ends
        fine = samplers.AdamsBashforth(3, "u")
        at = lambda levels: equal_calls.at_levels(schedule, levels, t_max)
        self.reference = self._samples(fine, at(dense))
        if not np.isfinite(self.reference).all():
            raise ValueError(
                f"end points of {reference_steps} steps are not finite: denoise_fn "
                "must be finite at all times of the grid; choose t_max below 1, or "
                "other weights"
            )
        other = self._distances(self._samples(fine, at(line)))
        self.reference_error = float(np.mean(other))

    def distances(self, sampler: Any, times: np.ndarray) -> np.ndarray:
        """Computes a deterministic sampler's distances to the reference, `[n]`."""
        return self._distances(self._samples(sampler, times))

    def end_fn(self, sampler: Any, times: np.ndarray) -> Callable[[Any], Array]:
        """Returns `rows -> samples [n, *event]`, to differentiate in a plan's rows.

        It is a pytree: the denoiser and the starts are its leaves.
        """
        z, last = self._ends(times)
        key = jax.random.key(0)
        return jax.tree_util.Partial(_program, key, self._denoiser, z, sampler, last)

    def ends_noisy(self, times: np.ndarray) -> bool:
        """Returns whether a step to the data follows the grid."""
        return equal_calls.ends_noisy(self._schedule, times[-1])

    def evaluations(self, sampler: Any, times: np.ndarray) -> int:
        """Counts the denoiser's calls on a grid, that of a step to the data too."""
        rows = self._plan(sampler, times)
        calls = rows.get("calls") if isinstance(rows, dict) else None
        made = len(jax.tree.leaves(rows)[0]) if calls is None else int(np.sum(calls))
        return made + self.ends_noisy(times)

    def check_deterministic(self, sampler: Any, times: np.ndarray) -> None:
        """Raises a `ValueError` where noise of the sampler's own changes its samples.

        `Churn(0.0)` takes noise and multiplies it by 0.
        """
        if not sampler.num_noises:
            return
        one, other = (self._samples(sampler, times, seed) for seed in (0, 1))
        if not np.array_equal(one, other):
            raise ValueError(
                f"sampler={sampler!r}: must be deterministic, because errors are "
                "measured by the end points of the same noise; take samplers.ddim() or "
                "samplers.AdamsBashforth(2, 'u') in its place"
            )

    def _distances(self, samples: np.ndarray) -> np.ndarray:
        """Computes distances to the reference; infinite if a sample is not finite."""
        found = np.sqrt(np.mean((samples - self.reference) ** 2, axis=1))
        return np.where(np.isfinite(found), found, np.inf)

    def _plan(self, sampler: Any, times: np.ndarray) -> Any:
        from diffusionflow import samplers

        return samplers.plan(sampler, check_grid(times), schedule=self._schedule)

    def _ends(self, times: np.ndarray) -> tuple[Array, np.ndarray | None]:
        """Computes starts at the first time, and the last time if sigma > 0 there."""
        from diffusionflow import samplers

        noisy = self.ends_noisy(times)
        evaluated = times if noisy else times[:-1]
        samplers.steps.check_times(self._denoiser, evaluated, self._z)
        sigmas = np.asarray(self._schedule.sigma(np.array([times[0], self._t_max])))
        z = self._z * np.asarray(sigmas[0] / sigmas[1], self._z.dtype)
        return z, np.asarray(times[-1], self._z.dtype) if noisy else None

    def _samples(self, sampler: Any, times: np.ndarray, seed: int = 0) -> np.ndarray:
        """Samples, float64 `[n, size]`."""
        z, last = self._ends(times)
        rows = self._plan(sampler, times)
        key = jax.random.key(seed)
        x = self._program(key, self._denoiser, z, sampler, last, rows)
        return np.asarray(x, np.float64).reshape(len(x), -1)


def _program(
    key: Array, denoiser: Denoiser, z: Array, sampler: Any, last: Any, rows: Any
) -> Array:
    """Runs the rows of a plan, and a step to the data where there is a last time."""
    from diffusionflow import samplers

    x = samplers.run(key, denoiser, z, rows, sampler=sampler).x
    if last is not None:
        x = denoiser(x, last).x
    return denoiser.finalize(x)
