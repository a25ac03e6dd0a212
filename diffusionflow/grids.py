"""Grids of sampling times: float64 on the host, built by index, strictly falling.

`num_steps` steps make `num_steps + 1` times, from the noise end down to the data end.
"""

import numpy as np
from jax.typing import ArrayLike

from diffusionflow._dataclass import check_bound, is_traced
from diffusionflow._numeric import in_float64
from diffusionflow.schedules import Schedule


def uniform(num_steps: int, *, t_max: float = 1.0, t_min: float = 0.0) -> np.ndarray:
    """Times that fall in equal steps from `t_max` to `t_min`.

    Args:
      num_steps: at least 1.
      t_max: first time.
      t_min: last time.

    Returns:
      float64 `[num_steps + 1]`, both ends exact.

    Raises:
      ValueError: no step, or not 0 <= t_min < t_max <= 1.
    """
    return check_grid(_fractions(num_steps, t_max, t_min))


def logsnr_uniform(
    num_steps: int,
    schedule: Schedule,
    *,
    logsnr_min: float = -10.0,
    logsnr_max: float = 10.0,
) -> np.ndarray:
    """Times whose log-SNR rises in equal steps.

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
    logsnr = _fractions(num_steps, logsnr_min, logsnr_max)
    invert = lambda schedule, logsnr: schedule.inverse_logsnr(logsnr)
    return check_grid(in_float64(invert, schedule, logsnr))


def check_grid(times: ArrayLike) -> ArrayLike:
    """`times`, if they are a grid; traced times cannot be looked at and pass.

    Raises:
      ValueError: fewer than two times, a time outside [0, 1], a time that repeats or
        rises.
    """
    if is_traced(times):
        return times
    values = np.asarray(times)
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


def _fractions(num_steps: int, first: float, last: float) -> np.ndarray:
    check_bound("num_steps", num_steps, lambda n: n >= 1, "at least 1")
    return np.linspace(first, last, num_steps + 1, dtype=np.float64)
