"""The steps of diffusers' schedulers in our time."""

from typing import Any, NamedTuple

import numpy as np

from diffusionflow import schedules
from diffusionflow._dataclass import check_name
from diffusionflow._numeric import in_float64
from diffusionflow.interop.diffusers import spacings
from diffusionflow.interop.diffusers.options import FLOWS
from diffusionflow.schedules import Schedule

Settings = dict[str, Any]

_REPEATS = ("DEISMultistepScheduler", "SASolverScheduler")  # the last level of a grid
_BACK = ("DDIMScheduler", "PNDMScheduler")  # aim at a timestep less T // N


class DiffusersSteps(NamedTuple):
    """The steps of a scheduler, in the time of its convention's schedule.

    Fields:
      t: where each step starts and the network is called, `[num_steps]`.
      s: where it aims, `[num_steps]`; for most classes the next `t`. DDIMScheduler and
        PNDMScheduler aim at the timestep less `T // N`, whatever their spacing.
      timesteps: what the network is given as its time at `t`, `[num_steps]`.
      init_scale: standard deviation of the z that its pipelines start from.
      to_data: whether a last step to the data follows, with a call at the last `s`.
    """

    t: np.ndarray
    s: np.ndarray
    timesteps: np.ndarray
    init_scale: float
    to_data: bool


def of_chain(
    name: str, settings: Settings, schedule: Schedule, num_steps: int
) -> DiffusersSteps:
    """Lists the steps of a chain of betas."""
    if not isinstance(schedule, schedules.Discrete):
        raise ValueError(
            "timestep_type='continuous' with sigma_min and sigma_max: the levels of "
            "its steps follow from betas, which the network was not trained with; use "
            "grids.logsnr_uniform or grids.karras on the schedule of "
            "interop.from_diffusers"
        )
    with np.errstate(divide="ignore"):
        rho = np.sqrt(schedule.complement / schedule.alphas_cumprod)
    index = spacings.timesteps(name, settings, num_steps, rho)
    levels = np.interp(index, np.arange(len(rho)), rho)
    levels = _log_linear(settings, rho, num_steps, levels)
    spread = spacings.spread(name, settings, num_steps, rho, levels)
    if spread is not None:
        levels = spread
        index = spacings.rounded(name, settings, spacings.index_of(levels, rho))
    elif len(levels) == len(index) and np.array_equal(index, index.round()):
        levels = None  # the nodes themselves, where rho may be infinite
    t = (index + 1) / len(rho) if levels is None else _time(levels, rho, schedule)
    time = index
    if settings.get("timestep_type") == "continuous":
        time = -np.asarray(schedule.logsnr(t[: len(index)])) / 8
    s = _aims(name, settings, t, index, spread is not None)
    kept = len(s) - (len(s) > 1 and t[len(s) - 1] == s[-1])  # a step that goes nowhere
    scale = _init_scale(name, settings, float(np.asarray(schedule.sigma(t[0]))))
    return DiffusersSteps(t[:kept], s[:kept], time[:kept], scale, False)


def _log_linear(
    settings: Settings, rho: np.ndarray, num_steps: int, levels: np.ndarray
) -> np.ndarray:
    """Computes levels by `interpolation_type`; N + 1 of them for "log_linear"."""
    kind = settings.get("interpolation_type", "linear")
    check_name("interpolation_type", kind, ("linear", "log_linear"))
    if kind == "linear":
        return levels
    return np.exp(np.linspace(np.log(rho[-1]), np.log(rho[0]), num_steps + 1))


def _time(levels: np.ndarray, rho: np.ndarray, schedule: Schedule) -> np.ndarray:
    """Finds the times of levels `sigma / alpha` of a chain, exact at its nodes."""
    if not levels.max() <= rho[-1] * (1 + 1e-6):
        raise ValueError(
            f"sigma_max={levels.max():.6g}: must be at most {rho[-1]:.6g}, the last "
            "level of the chain"
        )
    t = np.minimum(_at(schedule, levels), 1.0)
    node = np.round(t * len(rho)) / len(rho)
    return np.where(np.abs(t - node) < 1e-12, node, t)


def _at(schedule: Schedule, levels: np.ndarray) -> np.ndarray:
    """Finds the times at which `sigma / alpha` is `levels`."""
    inverse = lambda schedule, logsnr: schedule.inverse_logsnr(logsnr)
    return np.array(in_float64(inverse, schedule, -2 * np.log(levels)))


def _aims(
    name: str, settings: Settings, t: np.ndarray, index: np.ndarray, spread: bool
) -> np.ndarray:
    """Computes where the steps aim: the next level, and the end that the class has."""
    count = settings["num_train_timesteps"]
    if name in _BACK:
        previous = index - count // len(index)
        last = 0.0 if settings["set_alpha_to_one"] else 1 / count
        return np.where(previous >= 0, (previous + 1) / count, last)
    if settings.get("interpolation_type") == "log_linear" and not spread:
        return t[1:]
    to_least = name in _REPEATS or settings.get("final_sigmas_type") == "sigma_min"
    repeats = spread and (name in _REPEATS or name == "UniPCMultistepScheduler")
    if name == "TCDScheduler" or (to_least and not repeats):
        return np.append(t[1:], 1 / count)
    return np.append(t[1:], t[-1] if to_least else 0.0)


def _init_scale(name: str, settings: Settings, sigma: float) -> float:
    """Returns the initial scale: 1, or Euler's first level unless spaced "leading"."""
    unit = name in (*spacings.SOLVERS, *spacings.CHAIN, *spacings.CONSISTENCY)
    leading = settings.get("timestep_spacing") == "leading"
    return 1.0 if unit or leading else sigma


def of_flow(
    name: str, settings: Settings, schedule: Schedule, num_steps: int, given: Any
) -> DiffusersSteps:
    """Lists the steps of a flow; `given` are levels before the shift, or None."""
    k = float(getattr(schedule, "k", 1.0))
    sigmas = spacings.flow_sigmas(name, settings, num_steps, k, given)
    t = np.asarray(schedules.shift_time(sigmas, 1 / k), np.float64)
    kept = name in _REPEATS or settings.get("final_sigmas_type") == "sigma_min"
    if kept and name not in (*_REPEATS, "UniPCMultistepScheduler"):
        raise ValueError(
            "final_sigmas_type='sigma_min' with use_flow_sigmas: the last level would "
            "follow from betas, which the network was not trained with; write 'zero'"
        )
    if kept and len(t) == 1:
        raise ValueError(f"num_steps=1: {name} makes no step at all; take at least 2")
    times = sigmas * settings["num_train_timesteps"]
    if name not in FLOWS:
        times = np.floor(times)
    levels = t if kept else np.append(t, 0.0)
    return DiffusersSteps(levels[:-1], levels[1:], times[: len(levels) - 1], 1.0, False)


def of_edm(
    name: str, settings: Settings, schedule: Schedule, num_steps: int
) -> DiffusersSteps:
    """Lists the steps of an EDM grid; that to the data is `to_data`."""
    kind = settings["sigma_schedule"]
    check_name("sigma_schedule", kind, ("karras", "exponential"))
    if num_steps < 2:
        raise ValueError(f"num_steps={num_steps}: must be at least 2 for {name}")
    high, low = settings["sigma_max"], settings["sigma_min"]
    sigmas = spacings.sigma_grid(kind, num_steps, high, low, settings["rho"])
    t = _at(schedule, sigmas)
    t[0], t[-1] = 1.0, 0.0
    start = float(np.sqrt(high**2 + 1))
    ends = settings["final_sigmas_type"] == "zero"
    return DiffusersSteps(t[:-1], t[1:], np.log(sigmas[:-1]) / 4, start, ends)
