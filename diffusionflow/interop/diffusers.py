"""The conventions of diffusers."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jax import Array

from diffusionflow import schedules
from diffusionflow._dataclass import check_name, is_traced, register
from diffusionflow.interop.convention import UNSCALED, Convention
from diffusionflow.interop.edm import NoiseClock, from_edm

_PREDICTION_TYPES = {
    "epsilon": "eps",
    "v_prediction": "v",
    "sample": "x",
    "flow_prediction": "u",
}
_BETAS = ("beta_start", "beta_end", "beta_schedule")
_DDPM, _HEUN, _NO_DEFAULT = (1e-4, 0.02, "linear"), (0.00085, 0.012, "linear"), None
_CHAINS = {  # the betas that a config without them means
    "DDPMScheduler": _DDPM,
    "DDIMScheduler": _DDPM,
    "DDIMInverseScheduler": _DDPM,
    "PNDMScheduler": _DDPM,
    "LMSDiscreteScheduler": _DDPM,
    "EulerDiscreteScheduler": _DDPM,
    "EulerAncestralDiscreteScheduler": _DDPM,
    "HeunDiscreteScheduler": _HEUN,
    "KDPM2DiscreteScheduler": _NO_DEFAULT,
    "KDPM2AncestralDiscreteScheduler": _NO_DEFAULT,
    "DPMSolverMultistepScheduler": _DDPM,
    "DPMSolverSinglestepScheduler": _DDPM,
    "DPMSolverSDEScheduler": _NO_DEFAULT,
    "DEISMultistepScheduler": _DDPM,
    "UniPCMultistepScheduler": _DDPM,
    "SASolverScheduler": _NO_DEFAULT,
}
_FLOWS = ("FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler")
_EDMS = ("EDMEulerScheduler", "EDMDPMSolverMultistepScheduler")
_CHAIN_DEFAULTS = dict(
    num_train_timesteps=1000,
    trained_betas=None,
    rescale_betas_zero_snr=False,
    prediction_type="epsilon",
    use_flow_sigmas=False,
    flow_shift=1.0,
    timestep_type="discrete",
    sigma_min=None,
    sigma_max=None,
    use_dynamic_shifting=False,
    shift_terminal=None,
)
_FLOW_DEFAULTS = dict(
    num_train_timesteps=1000,
    shift=1.0,
    use_dynamic_shifting=False,
    shift_terminal=None,
    invert_sigmas=False,
)
# Timestep schedules, thresholds and solver options do not concern the network.
_SAMPLING_ONLY = frozenset(
    {
        "algorithm_type",
        "base_image_seq_len",
        "base_shift",
        "clip_sample",
        "clip_sample_range",
        "corrector_order",
        "disable_corrector",
        "dynamic_thresholding_ratio",
        "euler_at_final",
        "final_sigmas_type",
        "interpolation_type",
        "lambda_min_clipped",
        "lower_order_final",
        "max_image_seq_len",
        "max_shift",
        "noise_sampler_seed",
        "predict_x0",
        "predictor_order",
        "sample_max_value",
        "set_alpha_to_one",
        "sigma_schedule",
        "skip_prk_steps",
        "solver_order",
        "solver_p",
        "solver_type",
        "steps_offset",
        "stochastic_sampling",
        "tau_func",
        "thresholding",
        "time_shift_type",
        "timestep_spacing",
        "use_beta_sigmas",
        "use_exponential_sigmas",
        "use_karras_sigmas",
        "use_lu_lambdas",
        "variance_type",
    }
)


def from_diffusers(config: Mapping[str, Any]) -> Convention:
    """Converts the config of a diffusers scheduler to a `Convention`.

    The class, `_class_name`, decides among four clocks:

    - A chain of betas (DDIM, DDPM, Euler, DPM-Solver, UniPC, ...) calls its network at
      the index 0..T-1 of the table, on variance preserving z; here level i of
      `schedules.Discrete` stands at `t = (i + 1) / T`. The network was never trained
      below its first level, index 0: its first time is `t = 1 / T`. A sampler's grid
      is `grids.uniform(num_steps, t_min=1 / T)`, from whose end `samplers.sample` goes
      to the data with one call at index 0. (A grid of at most T equal steps down to
      t = 0 calls no network below either.)
    - EulerDiscreteScheduler with `timestep_type="continuous"` and "v_prediction" calls
      it at `log(sigma / alpha) / 4`, on variance preserving z, on a cosine schedule
      from `sigma_min` to `sigma_max` where the config has them, else on its chain.
    - FlowMatch... schedulers, and chains with `use_flow_sigmas`, call it at `T sigma`,
      sigma after the shift; the shift is that of `schedules.Shifted`.
    - EDM schedulers go to `from_edm`; their epsilon-prediction is EDM's F.

    Args:
      config: the dictionary of the scheduler. What it lacks has the default of its
        class; a class whose default betas are not known here must give them, and a
        chain of a class that is not known here its `prediction_type` too. Without
        `_class_name` it is a flow scheduler if it has an entry `shift`, else
        DDPMScheduler with the entries of all chains. Options of sampling alone are
        allowed and have no effect.

    Returns:
      `Convention`; kinds by `prediction_type`: "epsilon", "v_prediction", "sample",
      "flow_prediction" are eps, v, x and u. Called at a concrete `t < 1 / T`, that of
      a chain raises a `ValueError`; traced times cannot be checked and pass.

    Raises:
      ValueError: an unknown class or entry, betas that are missing, a value without a
        counterpart here (`use_dynamic_shifting`, whose shift depends on the image), or
        one that contradicts another; the message names it.
    """
    settings = {
        name: value
        for name, value in config.items()
        if name not in _SAMPLING_ONLY and not name.startswith("_")
    }
    name = config.get("_class_name")
    if name is None:
        if "shift" in settings:
            return _diffusers_flow(settings)
        return _diffusers_chain(settings, _DDPM)
    written_out = all(entry in settings for entry in (*_BETAS, "prediction_type"))
    if not written_out:  # a chain of betas of any class if they are
        check_name("_class_name", name, (*_CHAINS, *_FLOWS, *_EDMS))
    if name in _EDMS:
        return _diffusers_edm(settings)
    if name in _FLOWS:
        return _diffusers_flow(settings)
    if settings.get("timestep_type") == "continuous":
        check_name("_class_name with a timestep_type", name, ["EulerDiscreteScheduler"])
    betas = _CHAINS.get(name)
    if betas is None and settings.get("trained_betas") is None:
        missing = [entry for entry in _BETAS if entry not in settings]
        if missing:
            raise ValueError(
                f"a config of {name} without {', '.join(missing)}: its defaults are "
                "not known here; write them out"
            )
    return _diffusers_chain(settings, betas or _DDPM)


def _merged(defaults: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    for name in settings:
        check_name("entry of a diffusers config", name, defaults)
    return {**defaults, **settings}


def _diffusers_kind(settings: dict[str, Any], allowed: tuple[str, ...]) -> str:
    name = settings["prediction_type"]
    check_name("prediction_type", name, allowed)
    return _PREDICTION_TYPES[name]


def _diffusers_chain(settings: dict[str, Any], betas: tuple[Any, ...]) -> Convention:
    defaults = {**_CHAIN_DEFAULTS, **dict(zip(_BETAS, betas, strict=True))}
    _check_numbers(settings)
    settings = _merged(defaults, settings)
    _refuse(settings, "use_dynamic_shifting", "shift_terminal")
    flow, count = settings["use_flow_sigmas"], settings["num_train_timesteps"]
    allowed = ("flow_prediction",) if flow else ("epsilon", "v_prediction", "sample")
    kind = _diffusers_kind(settings, allowed)
    check_name("timestep_type", settings["timestep_type"], ("discrete", "continuous"))
    if settings["timestep_type"] == "continuous":
        return _diffusers_continuous(settings)
    if flow:
        return _flow(settings["flow_shift"], count, kind)
    schedule = _chain(settings)
    count = len(schedule.alphas_cumprod)
    return Convention(schedule, kind, _Index(float(count)), UNSCALED)


def _diffusers_continuous(settings: dict[str, Any]) -> Convention:
    if settings["prediction_type"] != "v_prediction":
        raise ValueError(
            f"timestep_type='continuous' with prediction_type="
            f"{settings['prediction_type']!r}: must be with 'v_prediction'"
        )
    low, high = settings["sigma_min"], settings["sigma_max"]
    if (low is None) != (high is None):
        raise ValueError(f"sigma_min={low!r}, sigma_max={high!r}: give both or neither")
    schedule: schedules.Schedule
    if low is None:
        schedule = _chain(settings)
    else:
        ends = (float(-2 * np.log(sigma)) for sigma in (high, low))
        schedule = schedules.Cosine(*ends)
    return Convention(schedule, "v", NoiseClock(schedule, "edm"), UNSCALED)


def _chain(settings: dict[str, Any]) -> schedules.Discrete:
    schedule = schedules.Discrete.from_betas(_betas(settings))
    if settings["rescale_betas_zero_snr"]:
        rescaled = schedules.zero_terminal_snr(schedule.alphas_cumprod)
        schedule = schedules.Discrete(rescaled)
    return schedule


def _refuse(settings: dict[str, Any], *names: str) -> None:
    for name in names:
        if settings[name]:
            raise ValueError(
                f"{name}={settings[name]!r}: has no counterpart here; leave it out, "
                "and give the shift itself as 'shift' (of a chain, 'flow_shift')"
            )


def _check_numbers(settings: dict[str, Any]) -> None:
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


def _betas(settings: dict[str, Any]) -> np.ndarray:
    low, high = settings["beta_start"], settings["beta_end"]
    count = int(settings["num_train_timesteps"])
    if settings["trained_betas"] is not None:
        return np.asarray(settings["trained_betas"], np.float64)
    names = ("linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid")
    check_name("beta_schedule", settings["beta_schedule"], names)
    match settings["beta_schedule"]:
        case "linear":
            return np.linspace(low, high, count)
        case "scaled_linear":
            return np.linspace(low**0.5, high**0.5, count) ** 2
        case "sigmoid":
            return low + (high - low) / (1 + np.exp(-np.linspace(-6, 6, count)))
    angle = (np.arange(count + 1) / count + 0.008) / 1.008 * np.pi / 2
    abar = np.cos(angle) ** 2
    return np.minimum(1 - abar[1:] / abar[:-1], 0.999)


def _diffusers_flow(settings: dict[str, Any]) -> Convention:
    settings = dict(settings)
    kind = settings.pop("prediction_type", "flow_prediction")
    check_name("prediction_type", kind, ("flow_prediction",))
    settings = _merged(_FLOW_DEFAULTS, settings)
    _refuse(settings, "use_dynamic_shifting", "shift_terminal", "invert_sigmas")
    return _flow(settings["shift"], settings["num_train_timesteps"], "u")


def _flow(shift: float, count: int, kind: str) -> Convention:
    schedule: schedules.Schedule = schedules.FlowMatching()
    if shift != 1:
        schedule = schedules.Shifted(schedule, shift)
    return Convention(schedule, kind, _Level(schedule, float(count)), UNSCALED)


def _diffusers_edm(settings: dict[str, Any]) -> Convention:
    defaults = dict(
        sigma_min=0.002,
        sigma_max=80.0,
        sigma_data=0.5,
        rho=7.0,
        num_train_timesteps=1000,
        prediction_type="epsilon",
    )
    settings = _merged(defaults, settings)
    check_name("prediction_type", settings["prediction_type"], ("epsilon",))
    schedule = schedules.EDM(
        settings["sigma_min"], settings["sigma_max"], settings["rho"]
    )
    return from_edm("edm", sigma_data=settings["sigma_data"], schedule=schedule)


_ROUNDING = 1e-3  # of a level: float32 times are nearer to their level than that


@register
class _Index:
    """`count t - 1`, the place in the table of a chain."""

    count: float

    def __call__(self, t: Array) -> Array:
        index = self.count * t - 1
        if not is_traced(index) and np.any(np.asarray(index) < -_ROUNDING):
            raise ValueError(
                f"t={float(np.min(t)):.6g}: below t = 1 / {self.count:g}, the first "
                "level of the chain that the network was trained on; end the grid at "
                f"grids.uniform(num_steps, t_min=1 / {self.count:g})"
            )
        return index


@register
class _Level:
    """`count sigma / (alpha + sigma)`."""

    schedule: Any
    count: float

    def __call__(self, t: Array) -> Array:
        return self.count * self.schedule.noise_level(t)
