"""Tables of betas of diffusers' schedulers."""

from collections.abc import Callable
from typing import Any

import numpy as np

from diffusionflow import schedules
from diffusionflow._dataclass import check_name

BETA_SCHEDULES = (
    "linear",
    "scaled_linear",
    "squaredcos_cap_v2",
    "sigmoid",
    "laplace",
    "exp",
)
_LAST = 2.0**-24  # alpha^2 of the last level, where some classes lift it above 0
LIFTED = (
    "EulerDiscreteScheduler",
    "EulerAncestralDiscreteScheduler",
    "DPMSolverMultistepScheduler",
    "UniPCMultistepScheduler",
)


def check_numbers(settings: dict[str, Any]) -> None:
    """Refuses what would fail in the arithmetic, and tables of another length."""
    for name in ("beta_start", "beta_end", "num_train_timesteps"):
        value = settings.get(name, 0.5)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise ValueError(f"{name}={value!r}: must be a number")
    count, betas = settings.get("num_train_timesteps"), settings.get("trained_betas")
    if count is not None and count != int(count):
        raise ValueError(f"num_train_timesteps={count!r}: must be a whole number")
    if count is not None and betas is not None and len(betas) != count:
        raise ValueError(
            f"trained_betas has {len(betas)} entries: must have "
            f"num_train_timesteps={count}"
        )


def chain(settings: dict[str, Any], *, lifted: bool) -> schedules.Discrete:
    """Makes the schedule of the table of a chain.

    Args:
      settings: of its class.
      lifted: whether alpha^2 at zero terminal SNR is 2^-24 in place of 0.
    """
    schedule = schedules.Discrete.from_betas(betas(settings))
    if not settings.get("rescale_betas_zero_snr"):
        return schedule
    table = schedules.zero_terminal_snr(schedule.alphas_cumprod)
    if lifted:
        if not table[-2] > _LAST:
            raise ValueError(
                f"rescale_betas_zero_snr=True: alpha^2 of the level before the last, "
                f"{table[-2]:.3g}, is below the 2^-24 that this class sets for the "
                "last, so that its levels do not fall; use DDIMScheduler, which sets 0"
            )
        table[-1] = _LAST
    return schedules.Discrete(table)


def betas(settings: dict[str, Any]) -> np.ndarray:
    """Computes the betas of a chain, float64 `[num_train_timesteps]`."""
    low, high = settings["beta_start"], settings["beta_end"]
    count = int(settings["num_train_timesteps"])
    if settings["trained_betas"] is not None:
        return np.asarray(settings["trained_betas"], np.float64)
    check_name("beta_schedule", settings["beta_schedule"], BETA_SCHEDULES)
    match settings["beta_schedule"]:
        case "linear":
            return np.linspace(low, high, count)
        case "scaled_linear":
            return np.linspace(low**0.5, high**0.5, count) ** 2
        case "sigmoid":
            return low + (high - low) / (1 + np.exp(-np.linspace(-6, 6, count)))
        case "laplace":
            return _of_products(_laplace, count)
        case "exp":
            return _of_products(lambda t: np.exp(-12 * t), count)
    return _of_products(lambda t: np.cos((t + 0.008) / 1.008 * np.pi / 2) ** 2, count)


def _of_products(product_fn: Callable[[np.ndarray], np.ndarray], count: int) -> Any:
    """Computes betas, at most 0.999, from the product of `1 - beta` over time."""
    product = product_fn(np.arange(count + 1) / count)
    return np.minimum(1 - product[1:] / product[:-1], 0.999)


def _laplace(t: np.ndarray) -> np.ndarray:
    """Computes `sqrt(SNR / (1 + SNR))`, with a Laplace-distributed log-SNR."""
    side = np.where(t > 0.5, -1.0, 1.0)
    snr = np.exp(-0.5 * side * np.log(1 - 2 * np.abs(0.5 - t) + 1e-6))
    return np.sqrt(snr / (1 + snr))
