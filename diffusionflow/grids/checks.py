"""Checks of sampling grids."""

from typing import TypeVar

import numpy as np
from jax.typing import ArrayLike

from diffusionflow._dataclass import is_traced

Times = TypeVar("Times", bound=ArrayLike)


def check_grid(times: Times) -> Times:
    """Checks that `times` are a sampling grid, and returns them.

    Traced values cannot be checked and pass.

    Args:
      times: `[num_steps + 1]`, falling, in [0, 1].

    Raises:
      ValueError: fewer than two times, a time outside [0, 1], a time that repeats or
        rises.
    """
    if is_traced(times):
        return times
    values = np.asarray(times)
    if not np.issubdtype(values.dtype, np.number) or values.ndim == 0:
        shown = getattr(times, "__name__", repr(times))
        raise ValueError(
            f"times={shown}: must be a grid [num_steps + 1], such as grids.uniform(50)"
        )
    if values.ndim != 1 or values.size < 2:
        raise ValueError(f"a grid of shape {values.shape}: must be [num_steps + 1]")
    if not (values.max() <= 1 and values.min() >= 0):
        raise ValueError(
            f"grid times from {values.max()} to {values.min()}: must be in [0, 1]"
        )
    falls = np.diff(values) < 0
    if not falls.all():
        place = int(np.argmin(falls))
        raise ValueError(
            f"grid times {values[place]} and {values[place + 1]} (steps {place} and "
            f"{place + 1}): each time must be below the one before"
        )
    return times
