"""Samplers and grids by the names of other libraries and of web interfaces.

A name is that of a class of diffusers, score_sde or rectified-flow, of a function of
k-diffusion, or what web interfaces show, with the name of a grid behind it or without:
"DPM++ 2M Karras". Case, underscores, hyphens and the prefix `sample_` do not matter,
and `pp` is `++`.
"""

import difflib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from diffusionflow import grids
from diffusionflow._numeric import in_float64
from diffusionflow.samplers.base import Sampler
from diffusionflow.samplers.names_elsewhere import (
    GRIDS_NOT_SHIPPED,
    NOT_SHIPPED,
    ROWS,
)
from diffusionflow.schedules import Discrete, Schedule

GridFn = Callable[..., np.ndarray]


class Named(NamedTuple):
    """A sampler and the grid that goes with its name.

    Fields:
      sampler: ours.
      grid_fn: `(num_steps, *, schedule) -> times` for `samplers.sample`; `num_steps` as
        the source counts them.
    """

    sampler: Sampler
    grid_fn: GridFn


def _normal(num_steps: int, *, schedule: Schedule) -> np.ndarray:
    """Makes N equal steps of time from t = 1, the last of a table to the data."""
    if not isinstance(schedule, Discrete) or num_steps == 1:
        return _uniform(num_steps, schedule)
    first = 1 / schedule.alphas_cumprod.shape[-1]
    return np.append(grids.uniform(num_steps - 1, t_min=first), 0.0)


def _spaced(spacing: str, offset: int = 0) -> GridFn:
    def grid_fn(num_steps: int, *, schedule: Schedule) -> np.ndarray:
        if not isinstance(schedule, Discrete):
            return _uniform(num_steps, schedule)
        count = schedule.alphas_cumprod.shape[-1]
        return grids.discrete(num_steps, spacing, num_levels=count, offset=offset)

    return grid_fn


def _simple(num_steps: int, *, schedule: Schedule) -> np.ndarray:
    """Takes every (T / N)-th level of a table, from the last."""
    if not isinstance(schedule, Discrete):
        return _uniform(num_steps, schedule)
    count = schedule.alphas_cumprod.shape[-1]
    levels = count - np.arange(num_steps) * count // num_steps
    return grids.check_grid(np.append(levels / count, 0.0))


def _uniform(num_steps: int, schedule: Schedule) -> np.ndarray:
    """Makes N steps in time, the one of `sample` to the data counted."""
    ends_noisy = num_steps > 1 and float(schedule.sigma(0.0)) > 0
    return grids.uniform(num_steps - 1 if ends_noisy else num_steps)


def _linspace(num_steps: int, *, schedule: Schedule) -> np.ndarray:
    """Takes N + 1 equally spaced levels of a table without the first, then the data."""
    if not isinstance(schedule, Discrete):
        return _uniform(num_steps, schedule)
    count = schedule.alphas_cumprod.shape[-1]
    levels = 1 + np.linspace(count - 1, 0, num_steps + 1).round()[:-1]
    return grids.check_grid(np.append(levels / count, 0.0))


def _karras(num_steps: int, *, schedule: Schedule) -> np.ndarray:
    """Makes N Karras levels between the ends of the schedule, no step to the data."""
    if num_steps == 1:
        return grids.uniform(1)
    low, high = _ends(schedule)
    return grids.karras(num_steps - 1, schedule=schedule, ratio_min=low, ratio_max=high)


def _exponential(num_steps: int, *, schedule: Schedule) -> np.ndarray:
    if num_steps == 1:
        return grids.uniform(1)
    low, high = (-2 * float(np.log(end)) for end in _ends(schedule))
    return grids.logsnr_uniform(
        num_steps - 1, schedule=schedule, logsnr_min=high, logsnr_max=low
    )


def _dpm_fast(num_steps: int, *, schedule: Schedule) -> np.ndarray:
    """Makes the stages of blocks of order 3 and the rest, equally long in log-SNR."""
    whole, rest = divmod(num_steps, 3)
    orders = [3] * whole + [rest] if rest else [3] * (whole - 1) + [2, 1]
    low, high = (-2 * float(np.log(end)) for end in _ends(schedule))
    length = (low - high) / len(orders)
    parts = [block + np.arange(n) / n for block, n in enumerate(orders)]
    logsnr = np.append(high + length * np.concatenate(parts), low)
    times = in_float64(lambda schedule, x: schedule.inverse_logsnr(x), schedule, logsnr)
    times = np.array(times)
    times[0] = 1.0 if float(schedule.alpha(1.0)) > 0 else times[0]
    return grids.check_grid(times)


def _ends(schedule: Schedule) -> tuple[float, float]:
    """Finds the least and the largest sigma / alpha; 0.002 and 80 if 0 or infinite."""
    first = 0.0
    if isinstance(schedule, Discrete):
        first = 1 / schedule.alphas_cumprod.shape[-1]
    times = np.array([first, 1.0])
    logsnr = in_float64(lambda schedule, t: schedule.logsnr(t), schedule, times)
    low, high = np.exp(-np.asarray(logsnr) / 2)
    return float(low) if low > 0 else 0.002, float(high) if high < np.inf else 80.0


GRIDS: dict[str, GridFn] = {
    "normal": _normal,
    "simple": _simple,
    "leading": _spaced("leading"),
    "trailing": _spaced("trailing"),
    "sgm uniform": _spaced("trailing"),
    "ddim uniform": _spaced("leading", offset=1),
    "linspace": _linspace,
    "karras": _karras,
    "exponential": _exponential,
    "dpm fast": _dpm_fast,
}


def by_name(name: str) -> Named:
    """Finds the sampler and the grid that another library means by a name.

    Args:
      name: of a class of diffusers, score_sde or rectified-flow, of a function of
        k-diffusion, or of a web interface; a grid's name may follow: "Karras",
        "Exponential", "Normal", "Simple", "SGM uniform", "DDIM uniform".

    Returns:
      `Named`: `(sampler, grid_fn)`; `grid_fn(num_steps, schedule=schedule)` makes the
      times for `samplers.sample`. The differences to theirs are in the table of
      docs/samplers.md.

    Raises:
      ValueError: a method or grid that is not shipped, with the nearest that is, or an
        unknown name, with the nearest known.

    Example:
      >>> from diffusionflow import schedules
      >>> sampler, grid_fn = by_name("DPM++ 2M Karras")
      >>> sampler.order, grid_fn(20, schedule=schedules.Discrete.linear_betas()).shape
      (2, (20,))
    """
    words, grid = _split(_normalized(name))
    for names, instead in NOT_SHIPPED.items():
        if words in map(_normalized, names):
            raise ValueError(f"{name!r}: the method is not shipped; {instead}")
    for row in ROWS:
        if words in map(_normalized, row.names):
            return Named(row.sampler, GRIDS[grid or row.grid])
    every = [known for row in ROWS for known in row.names]
    shown = {_normalized(known): known for known in reversed(every)}  # the first wins
    close = difflib.get_close_matches(words, shown, n=3, cutoff=0.5)
    nearest = ", ".join(repr(shown[key]) for key in close)
    hint = f"did you mean {nearest}? " if close else ""
    known = ", ".join(row.names[0] for row in ROWS)
    raise ValueError(f"unknown sampler {name!r}: {hint}known: {known}")


def with_grid(name: str) -> bool:
    """Returns whether the name of a grid follows that of a sampler."""
    return _split(_normalized(name))[1] is not None


def _normalized(name: Any) -> str:
    text = " ".join(str(name).lower().replace("_", " ").replace("-", " ").split())
    return text.replace("pp ", "++ ").removeprefix("sample ")


def _split(words: str) -> tuple[str, str | None]:
    """Splits off the name of a grid after a sampler's; None where there is none."""
    for grid, instead in GRIDS_NOT_SHIPPED.items():
        if words.endswith(f" {grid}"):
            raise ValueError(f"grid {grid!r} of {words!r}: not shipped; {instead}")
    for grid in sorted(GRIDS, key=len, reverse=True):
        if words.endswith(f" {grid}"):
            return words.removesuffix(f" {grid}"), grid
    return words, None
