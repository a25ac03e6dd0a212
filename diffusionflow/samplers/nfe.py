"""Counts the number of function evaluations (NFE): network calls, guidance included."""

from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from diffusionflow._dataclass import is_traced
from diffusionflow.predictions import Denoised, Denoiser, denoise_toward

_VARYING = "varying"

Count = TypeVar("Count", bound=int | Array)


class Counter:
    """NFE of a run: of the evaluations that its steps make, and of each of them.

    A step that contains several evaluations may skip some, so that the plan must say
    how many are made, in a column `calls`; without it NFE are not known.

    Args:
      denoiser: that is evaluated.
      rows: the plan.
      dtype: of the times that reach the denoiser.
    """

    def __init__(self, denoiser: Denoiser, rows: Any, dtype: Any) -> None:
        self.denoiser = denoiser
        self.per_evaluation = calls_at_any_time(denoiser, dtype)
        self.column = _column(rows)
        self.contained = 0
        self.times: list[Array] = []

    def __call__(self, z: Array, t: Array) -> Denoised:
        """Evaluates the denoiser inside a step."""
        self.times.append(t)
        return self.denoiser(z, t)

    def denoise_toward(self, z: Array, t: Array, s: Array) -> Denoised:
        """Evaluates it with the time `s` that the step goes to."""
        self.times.append(t)
        return denoise_toward(self.denoiser, z, t, s)

    def calls_of_step(self, row: Any) -> Array | None:
        """Counts network calls of the last traced step, if they vary with time.

        The times are columns of the row, so they may be used outside the branch of the
        step in which they were handed over.
        """
        times, self.times = self.times, []
        self.contained = len(times)
        if self.per_evaluation != _VARYING or not self._known():
            return None
        made = len(times) if self.column is None else _column(row)
        calls_at: Any = self.denoiser.num_network_calls  # not None where they vary
        counts = [jnp.where(i < made, calls_at(t), 0) for i, t in enumerate(times)]
        return sum(counts, start=jnp.zeros((), int))

    def total(self, rows: Any, calls: Array | None) -> int | Array | None:
        """Sums the NFE of the run; `calls` are those of each step, `calls_of_step`."""
        if self.per_evaluation is None or not self._known():
            return None
        if not isinstance(self.per_evaluation, int):
            return None if calls is None else as_number(jnp.sum(calls))
        if self.column is None:
            return jax.tree.leaves(rows)[0].shape[0] * self.per_evaluation
        made = self.column
        made = jnp.sum(made) if is_traced(made) else int(np.sum(made))
        return made * self.per_evaluation

    def _known(self) -> bool:
        return self.column is not None or self.contained == 1


def _column(rows: Any) -> Any:
    if isinstance(rows, dict):
        return rows.get("calls")
    return getattr(rows, "calls", None)


def calls_at_any_time(denoiser: Denoiser, dtype: Any) -> int | str | None:
    """Counts network calls of an evaluation; None if unknown, `_VARYING` with its time.

    Evaluated at a traced time: there is no one time at which every denoiser is defined.
    """
    noted: list[int | str | None] = []

    def note(t: Array) -> None:  # no traced number may leave the function
        calls = denoiser.num_network_calls(t)
        if isinstance(calls, int | np.integer):
            noted.append(int(calls))
        else:
            noted.append(None if calls is None else _VARYING)

    jax.eval_shape(note, jax.ShapeDtypeStruct((), dtype))
    return noted[0]


def times_calls(denoiser: Denoiser, evaluations: Count) -> Count | None:
    """Returns the network calls of so many evaluations, None where unknown."""
    calls = calls_at_any_time(denoiser, jnp.result_type(float))
    total: Any = evaluations * calls if isinstance(calls, int) else None
    return total


def as_number(count: int | Array) -> int | Array:
    """Converts to a Python number where `count` is concrete."""
    return count if is_traced(count) else int(count)
