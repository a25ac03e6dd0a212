"""Fixed sampling grids: equal steps in a function of time or of the log-SNR."""

from typing import Any

import numpy as np
from jax import Array

from diffusionflow import _xp as xp
from diffusionflow._dataclass import (
    check_below,
    check_bound,
    check_count,
    check_name,
    check_positive,
    is_traced,
)
from diffusionflow._numeric import in_float64
from diffusionflow.grids.checks import check_grid
from diffusionflow.schedules import Schedule, as_schedule, shift_time

SPACINGS = ("leading", "trailing", "linspace")


def uniform(num_steps: int, *, t_max: float = 1.0, t_min: float = 0.0) -> np.ndarray:
    """Makes the uniform sampling grid: times in equal steps from `t_max` to `t_min`.

    Args:
      num_steps: at least 1.
      t_max: first time.
      t_min: last time.

    Returns:
      float64 `[num_steps + 1]`, both ends exact.

    Raises:
      ValueError: no step, or not 0 <= t_min < t_max <= 1.

    Example:
      >>> uniform(4).tolist()
      [1.0, 0.75, 0.5, 0.25, 0.0]
    """
    return check_grid(_line(num_steps, t_max, t_min))


def quadratic(num_steps: int, *, t_max: float = 1.0, t_min: float = 0.0) -> np.ndarray:
    """Makes the quadratic grid, equal steps of sqrt(t): short steps near the data.

    Args:
      num_steps: at least 1.
      t_max: first time.
      t_min: last time.

    Returns:
      float64 `[num_steps + 1]`, both ends exact.

    Raises:
      ValueError: no step, or not 0 <= t_min < t_max <= 1.

    Source: Song et al. 2020, arXiv 2010.02502, appendix on the sub-sequences of steps,
    whose first time is below 1 and whose times are rounded to levels of a table.
    """
    for name, time in (("t_max", t_max), ("t_min", t_min)):
        check_bound(name, time, lambda time: time >= 0, "at least 0")
    return check_grid(_power(num_steps, t_max, t_min, 2.0))


def cosine(num_steps: int, *, t_max: float = 1.0, t_min: float = 0.0) -> np.ndarray:
    """Makes the cosine grid `t_min + (t_max - t_min) sin(pi u_i/2)`, fine at the noise.

    Args:
      num_steps: at least 1.
      t_max: first time.
      t_min: last time.

    Returns:
      float64 `[num_steps + 1]`, both ends exact.

    Raises:
      ValueError: no step, or not 0 <= t_min < t_max <= 1.

    Source: Du et al. 2024 (CosyVoice), arXiv 2407.05407, with the time reversed: there
    it is 1 - cos.
    """
    part = np.sin(np.pi / 2 * _line(num_steps, 1.0, 0.0))
    return check_grid(_with_ends(t_min + (t_max - t_min) * part, t_max, t_min))


def shifted(
    num_steps: int, *, k: float, t_max: float = 1.0, t_min: float = 0.0
) -> np.ndarray:
    """Makes the shifted grid `k u / (1 + (k - 1) u)`, u uniform, `t_max` to `t_min`.

    On flow matching with sigma_min = 0 these are the levels of the uniform grid on
    `schedules.Shifted(schedule, k)`. On any other schedule it is only a change of time;
    there, sample on the shifted schedule itself.

    Args:
      num_steps: at least 1.
      k: positive; above 1 for more steps at the noise.
      t_max: first time, before the shift; 1 is kept by it.
      t_min: last time, before the shift; 0 is kept by it.

    Returns:
      float64 `[num_steps + 1]`.

    Raises:
      ValueError: no step, `k` is not positive, or not 0 <= t_min < t_max <= 1.

    Source: Esser et al. 2024, arXiv 2403.03206, shifting of the timesteps.
    """
    check_positive("k", k)
    times: Any = uniform(num_steps, t_max=t_max, t_min=t_min)
    times = shift_time(times, k)
    return check_grid(times)


def logsnr_uniform(
    num_steps: int,
    *,
    schedule: Schedule,
    logsnr_min: float = -10.0,
    logsnr_max: float = 10.0,
) -> np.ndarray:
    """Makes the log-SNR uniform grid (exponential sigmas): sigma / alpha is geometric.

    Args:
      num_steps: at least 1.
      schedule: gives the times.
      logsnr_min: log-SNR of the first time.
      logsnr_max: log-SNR of the last time; `samplers.sample` goes on to the data.

    Returns:
      float64 `[num_steps + 1]`.

    Raises:
      ValueError: no step, `logsnr_min >= logsnr_max`, or bounds that the schedule does
        not reach within [0, 1].
    """
    return at_logsnr(schedule, _line(num_steps, logsnr_min, logsnr_max))


def karras(
    num_steps: int,
    *,
    schedule: Schedule,
    rho: float = 7.0,
    ratio_min: float = 0.002,
    ratio_max: float = 80.0,
) -> np.ndarray:
    """Makes the Karras (EDM) timestep schedule: equal steps of `(sigma/alpha)^(1/rho)`.

    `rho = 1` makes equal steps of sigma / alpha, large `rho` of the log-SNR.

    Args:
      num_steps: at least 1. The source counts the step to the data that
        `samplers.sample` adds where the last sigma is not 0: its N steps are N - 1.
      schedule: any; gives the times.
      rho: positive.
      ratio_min: sigma / alpha of the last time.
      ratio_max: sigma / alpha of the first time.

    Returns:
      float64 `[num_steps + 1]`.

    Raises:
      ValueError: no step, `rho` is not positive, not 0 < ratio_min < ratio_max, or
        bounds that the schedule does not reach within [0, 1].

    Source: Karras et al. 2022, arXiv 2206.00364, eq. 5, there for alpha = 1.
    """
    check_positive("rho", rho)
    check_positive("ratio_min", ratio_min)
    check_positive("ratio_max", ratio_max)
    check_below("ratio_min", ratio_min, "ratio_max", ratio_max)
    ratios = _power(num_steps, float(ratio_max), float(ratio_min), float(rho))
    return at_logsnr(schedule, -2 * np.log(ratios))


def discrete(
    num_steps: int,
    spacing: str = "trailing",
    *,
    num_levels: int = 1000,
    offset: int = 0,
) -> np.ndarray:
    """Makes the grid of discrete timesteps: nodes `level / num_levels`, then the data.

    Of T levels, the last of which is pure noise, step i = 0..N-1 starts from

    | spacing      | level                              | of T = 1000, N = 4          |
    |--------------|------------------------------------|-----------------------------|
    | `"trailing"` | round(T (1 - i / N))               | 1000, 750, 500, 250         |
    | `"leading"`  | 1 + offset + (N - 1 - i) floor(T / N) | 751, 501, 251, 1         |
    | `"linspace"` | 1 + round((T - 1) (1 - i / (N - 1)))  | 1000, 667, 334, 1        |

    and the last step goes to t = 0; halves are rounded to even. Level n is timestep
    n - 1 of libraries that count from 0. `"leading"` never visits the noisiest levels,
    though samples start from pure noise. `"linspace"` with one step starts from T.

    Args:
      num_steps: 1 to `num_levels`.
      spacing: one of `SPACINGS`.
      num_levels: T, as many as the table has.
      offset: of `"leading"`; 1 for Stable Diffusion.

    Returns:
      float64 `[num_steps + 1]`, the last is 0.

    Raises:
      ValueError: an unknown spacing, more steps than levels, or levels outside 1..T.
    """
    check_name("spacing", spacing, SPACINGS)
    inside = lambda count: 1 <= count <= num_levels
    check_bound("num_steps", num_steps, inside, f"in 1..num_levels={num_levels}")
    if offset and spacing != "leading":
        raise ValueError(
            f"offset={offset}: must be 0 with spacing={spacing!r}; only 'leading' has "
            "an offset"
        )
    back: np.ndarray = np.arange(num_steps, 0, -1)  # N - i
    match spacing:
        case "trailing":
            levels: np.ndarray = np.round(num_levels * back / num_steps)
        case "leading":
            levels = 1 + offset + (back - 1) * (num_levels // num_steps)
        case _:
            last = max(num_steps - 1, 1)
            back = back - 1 if num_steps > 1 else back
            levels = 1 + np.round((num_levels - 1) * back / last)
    if levels[0] > num_levels or levels[-1] < 1:
        raise ValueError(
            f"offset={offset}: the levels {int(levels[0])}..{int(levels[-1])} must be "
            f"in 1..num_levels={num_levels}"
        )
    return check_grid(np.append(levels / num_levels, 0.0))


def _line(num_steps: int, first: float, last: float) -> np.ndarray:
    check_count("num_steps", num_steps)
    return np.linspace(first, last, num_steps + 1, dtype=np.float64)


def _power(num_steps: int, first: float, last: float, power: float) -> np.ndarray:
    """Computes falling values whose `1 / power`-th powers fall in equal steps."""
    roots = _line(num_steps, first ** (1 / power), last ** (1 / power))
    return _with_ends(roots**power, first, last)


def _with_ends(values: np.ndarray, first: float, last: float) -> np.ndarray:
    """Sets both ends exactly, without rounding."""
    values[0], values[-1] = first, last
    return values


def at_logsnr(schedule: Schedule, logsnr: np.ndarray) -> np.ndarray:
    """Makes the sampling grid of a schedule at rising log-SNRs."""
    times, reach = in_float64(_invert, as_schedule(schedule), logsnr)
    if not is_traced(times) and not (times.max() <= 1 and times.min() >= 0):
        raise ValueError(
            f"log-SNR from {logsnr[0]} to {logsnr[-1]}: {schedule} reaches from "
            f"{reach[0]} to {reach[1]} for times in [0, 1]; choose bounds inside"
        )
    return check_grid(times)


def _invert(schedule: Schedule, logsnr: Array) -> tuple[Array, Array]:
    """Finds times, and log-SNR at t = 1 and 0, where rounding must not lead beyond."""
    logsnr = xp.asarray(logsnr)
    ends = xp.asarray([1.0, 0.0], logsnr.dtype)
    reach = schedule.logsnr(ends)
    times = schedule.inverse_logsnr(logsnr)
    bounds, edge = (xp.stack([row[0], row[-1]]) for row in (logsnr, times))
    rounding = 64 * np.finfo(logsnr.dtype).eps * xp.maximum(xp.abs(bounds), 1)
    edge = xp.where(xp.abs(bounds - reach) <= rounding, ends, edge)
    return xp.concatenate([edge[:1], times[1:-1], edge[1:]]), reach
