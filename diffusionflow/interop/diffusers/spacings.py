"""Timesteps and noise levels that diffusers' schedulers step through.

Every scheduler makes a list of timesteps by its `timestep_spacing`, and most turn it
into levels `rho = sigma / alpha` or replace it by a grid of levels (Karras,
exponential, beta, flow). Three families count "N steps" differently:

| family     | classes                            | "linspace"                       |
|------------|------------------------------------|----------------------------------|
| "chain"    | DDIM, DDPM, PNDM                   | N integers from T - 1 to 0       |
| "sigma"    | Euler, Heun, LMS, KDPM2, DPMSDE    | N numbers from T - 1 to 0        |
| "solver"   | DPM-Solver, DEIS, UniPC, SA-Solver | N + 1 integers, without the last |

Source: diffusers 0.42.1, whose lists these are; `benchmarks/diffusers_schedulers.py`
compares them.
"""

from typing import Any

import numpy as np

from diffusionflow._dataclass import check_bound, check_count, check_name

Settings = dict[str, Any]

CHAIN = ("DDIMScheduler", "DDPMScheduler", "PNDMScheduler")
CONSISTENCY = ("LCMScheduler", "TCDScheduler")
SOLVERS = (
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "DEISMultistepScheduler",
    "UniPCMultistepScheduler",
    "SASolverScheduler",
)
_SPACINGS = ("leading", "trailing", "linspace")
_RHO = 7.0  # of diffusers' Karras grids


def timesteps(
    name: str, settings: Settings, num_steps: int, rho: np.ndarray
) -> np.ndarray:
    """Lists the timesteps of a chain of betas by its `timestep_spacing`.

    Args:
      name: class.
      settings: of its config.
      num_steps: N.
      rho: sigma / alpha of the T levels, rising.

    Returns:
      float64, falling; N of them, but for a rounding of "trailing" where N does not
      divide T.
    """
    count = int(settings["num_train_timesteps"])
    inside = lambda n: 1 <= n <= count
    check_bound("num_steps", num_steps, inside, f"in 1..num_train_timesteps={count}")
    if name in CONSISTENCY:
        return _consistency(settings, num_steps, count)
    spacing, last, more = settings.get("timestep_spacing", "linspace"), count, 0
    check_name("timestep_spacing", spacing, _SPACINGS)
    if name in SOLVERS:
        last, more = count - _clipped(settings, rho), 1
    whole = name in (*CHAIN, *SOLVERS)
    found: np.ndarray
    match spacing:
        case "linspace":
            found = np.linspace(0, last - 1, num_steps + more)[::-1]
            found = found.round() if whole else found
            found = found[: len(found) - more]
        case "leading":
            found = np.arange(more, num_steps + more)[::-1] * (
                last // (num_steps + more)
            )
            found = found + settings["steps_offset"]
        case _:
            found = np.round(np.arange(last, 0, -count / num_steps)) - 1
    if not (found[-1] >= 0 and found[0] <= count - 1):
        raise ValueError(
            f"steps_offset={settings['steps_offset']}: the timesteps {found[0]:g} to "
            f"{found[-1]:g} must be in 0..{count - 1}"
        )
    return found.astype(np.float64)


def _consistency(settings: Settings, num_steps: int, count: int) -> np.ndarray:
    original = settings["original_inference_steps"]
    inside = lambda n: 1 <= n <= count
    bound = f"in 1..num_train_timesteps={count}"
    check_bound("original_inference_steps", original, inside, bound)
    few = lambda n: n <= original
    bound = f"at most original_inference_steps={original}"
    check_bound("num_steps", num_steps, few, bound)
    trained = np.arange(original, 0, -1) * (count // original) - 1
    places = np.floor(np.linspace(0, original, num_steps, endpoint=False))
    return trained[places.astype(int)].astype(np.float64)


def _clipped(settings: Settings, rho: np.ndarray) -> int:
    """Counts the levels that `lambda_min_clipped` leaves out at the noise end."""
    bound = settings.get("lambda_min_clipped", -np.inf)
    return int(np.searchsorted(-np.log(rho[::-1]), bound))


def spread(
    name: str, settings: Settings, num_steps: int, rho: np.ndarray, between: np.ndarray
) -> np.ndarray | None:
    """Makes falling levels of a Karras, exponential or beta grid; None if not asked.

    Args:
      name: class.
      settings: of its config.
      num_steps: N.
      rho: sigma / alpha of the T levels, rising.
      between: the levels of the timesteps, between which the first family makes its.

    Raises:
      ValueError: two grids are asked for.
    """
    options = ("karras", "exponential", "beta")
    chosen = [kind for kind in options if settings.get(f"use_{kind}_sigmas")]
    if len(chosen) > 1:
        raise ValueError(f"use_{chosen[0]}_sigmas and use_{chosen[1]}_sigmas: give one")
    if not chosen and not settings.get("use_lu_lambdas"):
        return None
    first, last = (rho[-1], rho[0]) if name in SOLVERS else (between[0], between[-1])
    given = settings.get("sigma_max"), settings.get("sigma_min")
    high = first if given[0] is None else given[0]
    low = last if given[1] is None else given[1]
    kind = chosen[0] if chosen else "exponential"
    return sigma_grid(kind, num_steps, float(high), float(low))


def sigma_grid(
    kind: str, num_steps: int, high: float, low: float, rho: float = _RHO
) -> np.ndarray:
    """Makes N levels, `high` to `low`: "karras", "exponential" or "beta" (0.6, 0.6)."""
    ramp = np.linspace(0, 1, num_steps)
    match kind:
        case "karras":
            first, last = high ** (1 / rho), low ** (1 / rho)
            return (first + ramp * (last - first)) ** rho
        case "exponential":
            return np.exp(np.linspace(np.log(high), np.log(low), num_steps))
    from scipy.special import betaincinv  # comes with jax

    return low + betaincinv(0.6, 0.6, 1 - ramp) * (high - low)


def index_of(levels: np.ndarray, rho: np.ndarray) -> np.ndarray:
    """Computes the place of levels in the table, log-linear between its entries."""
    return np.interp(np.log(levels), np.log(rho), np.arange(len(rho)))


def rounded(name: str, settings: Settings, found: np.ndarray) -> np.ndarray:
    """Computes the timesteps of a grid of levels as the network gets them."""
    if name not in SOLVERS and not name.startswith("KDPM2"):
        return found
    nearest = settings.get("use_karras_sigmas") or settings.get("use_lu_lambdas")
    if name == "DPMSolverMultistepScheduler":
        nearest = nearest and settings["beta_schedule"] != "squaredcos_cap_v2"
    if nearest:
        return found.round()
    return np.floor(found) if name in SOLVERS else found


def flow_sigmas(
    name: str, settings: Settings, num_steps: int, k: float, given: Any
) -> np.ndarray:
    """Computes the sigmas of a flow grid, after the shift, falling, without the last 0.

    Args:
      name: class.
      settings: of its config.
      num_steps: N.
      k: the shift.
      given: `set_timesteps(sigmas=...)`, before the shift, or None.
    """
    check_count("num_steps", num_steps)
    count = settings["num_train_timesteps"]
    shift = lambda sigma: k * sigma / (1 + (k - 1) * sigma)
    if given is not None:
        base = np.asarray(given, np.float64)
        if base.shape != (num_steps,):
            raise ValueError(f"sigmas of shape {base.shape}: must be [{num_steps}]")
    elif name.startswith("FlowMatch"):
        fixed = not settings.get("use_dynamic_shifting")
        low = shift(1 / count) if fixed else 1 / count  # there the shift comes twice
        base = np.linspace(1, low, num_steps)
    elif name == "UniPCMultistepScheduler":
        base = np.linspace(1, 1 / count, num_steps + 1)[:-1]
    else:
        base = 1 - np.linspace(1 / count, 1, num_steps + 1)[:-1]
    sigmas = shift(base)
    end = settings.get("shift_terminal")
    if end:
        if num_steps == 1:
            raise ValueError(
                "num_steps=1: must be at least 2 with shift_terminal, which moves the "
                "last level of several"
            )
        sigmas = 1 - (1 - sigmas) * (1 - end) / (1 - sigmas[-1])
    if name == "UniPCMultistepScheduler" and abs(sigmas[0] - 1) < 1e-6:
        sigmas[0] -= 1e-6
    if not name.startswith("FlowMatch"):
        return sigmas
    other = spread(name, settings, num_steps, sigmas[::-1], sigmas)
    return sigmas if other is None else other
