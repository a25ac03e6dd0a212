"""The fixed grids that an optimised one is compared with, at equal network calls."""

from collections.abc import Callable, Mapping

import numpy as np

from diffusionflow._dataclass import check_bound, check_count
from diffusionflow._numeric import in_float64
from diffusionflow.grids import fixed, published
from diffusionflow.grids.checks import check_grid
from diffusionflow.schedules import Schedule, as_schedule

RATIOS = (0.002, 80.0)  # sigma / alpha of the last and the first level, where reached


def candidates(
    num_steps: int, *, schedule: Schedule, t_max: float = 1.0
) -> Mapping[str, np.ndarray]:
    """Makes fixed grids of equally many network calls.

    A grid that ends at sigma = 0 has `num_steps` steps. One that ends above has
    `num_steps - 1`, and `samplers.sample` adds one more to the data.

    Args:
      num_steps: steps to the data, at least 2.
      schedule: any; gives the times.
      t_max: first time of those that begin at pure noise.

    Returns:
      Float64 times by name: `uniform`, `quadratic`, `cosine`, `shifted` (k = 1/3 and
      3), `karras` (rho = 7), `logsnr_uniform`, the two tables of `align_your_steps`,
      and the levels of flow matching and of the cosine schedule at uniform times. One
      that equals an earlier one is there once, and one that the schedule does not reach
      is missing.

    Raises:
      ValueError: too few steps, or `t_max` is outside (0, 1].

    Example:
      >>> from diffusionflow import schedules
      >>> found = candidates(5, schedule=schedules.FlowMatching())
      >>> len(found), len(found["uniform"]), len(found["karras(rho=7)"])
      (10, 6, 5)
    """
    check_budget(num_steps)
    check_bound("t_max", t_max, lambda t: 0 < t <= 1, "in (0, 1]")
    schedule = as_schedule(schedule)
    found: dict[str, np.ndarray] = {}
    for name, make_fn in _makers(num_steps, schedule, t_max).items():
        try:
            times = check_grid(make_fn())
        except ValueError:  # levels beyond the schedule's
            continue
        if not any(_same(times, other) for other in found.values()):
            found[name] = times
    return found


def check_budget(num_steps: int) -> None:
    """Raises a `ValueError` where there is no time between the ends to choose."""
    if num_steps == 1:
        raise ValueError(
            "num_steps=1: must be at least 2; one step has no time to choose: take "
            "grids.uniform(1)"
        )
    check_count("num_steps", num_steps, 2)


def ends_noisy(schedule: Schedule, time: float = 0.0) -> bool:
    """Returns whether `samplers.sample` steps to data after a grid that ends here."""
    return float(in_float64(lambda schedule, t: schedule.sigma(t), schedule, time)) > 0


def at_levels(schedule: Schedule, levels: np.ndarray, t_max: float) -> np.ndarray:
    """Finds times from `t_max` to 0 with `sigma / (alpha + sigma)` placed as `levels`.

    Args:
      schedule: any.
      levels: falling from 1, the level of `t_max`, to 0, that of the data end.
      t_max: first time.

    Returns:
      float64, of the length of `levels`.
    """
    ends = _level(schedule, np.array([t_max, 0.0]))
    level = ends[1] + (ends[0] - ends[1]) * levels[1:-1]
    logsnr = 2 * (np.log1p(-level) - np.log(level))
    inner = in_float64(lambda schedule, x: schedule.inverse_logsnr(x), schedule, logsnr)
    return np.concatenate([[t_max], np.asarray(inner), [0.0]])


def _makers(
    count: int, schedule: Schedule, t_max: float
) -> dict[str, Callable[[], np.ndarray]]:
    """Returns functions without arguments that make the grids; some may raise."""
    steps = count - 1 if ends_noisy(schedule) else count
    line = np.linspace(1, 0, steps + 1)
    low, high = _reached(schedule, t_max)

    def table(name: str) -> np.ndarray:
        """Makes the grid of a table between the noisiest level here and the data."""
        times = published.align_your_steps(count - 1, schedule=schedule, table=name)
        return np.append(t_max, times[1:])

    sin, cos = np.sin(np.pi / 2 * line), np.cos(np.pi / 2 * line)
    return {
        "uniform": lambda: fixed.uniform(steps, t_max=t_max),
        "quadratic": lambda: fixed.quadratic(steps, t_max=t_max),
        "cosine": lambda: fixed.cosine(steps, t_max=t_max),
        "shifted(k=1/3)": lambda: fixed.shifted(steps, k=1 / 3, t_max=t_max),
        "shifted(k=3)": lambda: fixed.shifted(steps, k=3.0, t_max=t_max),
        "karras(rho=7)": lambda: fixed.karras(
            count - 1, schedule=schedule, ratio_min=low, ratio_max=high
        ),
        "logsnr_uniform": lambda: fixed.logsnr_uniform(
            count - 1,
            schedule=schedule,
            logsnr_min=max(-10.0, -2 * np.log(high)),
            logsnr_max=min(10.0, -2 * np.log(low)),
        ),
        "align_your_steps": lambda: table("stable_diffusion"),
        "align_your_steps(sdxl)": lambda: table("sdxl"),
        "levels of flow matching": lambda: at_levels(schedule, line, t_max),
        "levels of cosine": lambda: at_levels(schedule, sin / (sin + cos), t_max),
    }


def _same(times: np.ndarray, other: np.ndarray) -> bool:
    return len(times) == len(other) and np.allclose(times, other, rtol=0, atol=1e-9)


def _level(schedule: Schedule, t: np.ndarray) -> np.ndarray:
    """Computes `sigma / (alpha + sigma)`, float64."""
    alpha, sigma = in_float64(
        lambda schedule, t: (schedule.alpha(t), schedule.sigma(t)), schedule, t
    )
    return np.asarray(sigma / (alpha + sigma))


def _reached(schedule: Schedule, t_max: float) -> tuple[float, float]:
    """Returns the least and largest sigma / alpha: of `RATIOS`, or of the schedule."""
    high, low = _level(schedule, np.array([t_max, 0.0]))
    least, largest = RATIOS
    largest = largest if high == 1 else min(largest, high / (1 - high))
    return max(least, low / (1 - low)), float(largest)
