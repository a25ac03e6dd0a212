"""The conventions of diffusers."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jax import Array

from diffusionflow import schedules
from diffusionflow._dataclass import check_name, register
from diffusionflow.interop.convention import UNSCALED, Affine, Convention
from diffusionflow.interop.edm import from_edm

_PREDICTION_TYPES = {
    "epsilon": "eps",
    "v_prediction": "v",
    "sample": "x",
    "flow_prediction": "u",
}
_CHAIN_DEFAULTS = dict(
    num_train_timesteps=1000,
    beta_start=1e-4,
    beta_end=0.02,
    beta_schedule="linear",
    trained_betas=None,
    rescale_betas_zero_snr=False,
    prediction_type="epsilon",
    use_flow_sigmas=False,
    flow_shift=1.0,
)
_FLOW_DEFAULTS = dict(
    num_train_timesteps=1000,
    shift=1.0,
    use_dynamic_shifting=False,
    shift_terminal=None,
    invert_sigmas=False,
)
# Sampling grids, thresholds and solver options: no business of the network's.
_SAMPLING_ONLY = frozenset(
    {
        "algorithm_type",
        "base_image_seq_len",
        "base_shift",
        "clip_sample",
        "clip_sample_range",
        "disable_corrector",
        "dynamic_thresholding_ratio",
        "euler_at_final",
        "final_sigmas_type",
        "interpolation_type",
        "lambda_min_clipped",
        "lower_order_final",
        "max_image_seq_len",
        "max_shift",
        "predict_x0",
        "sample_max_value",
        "set_alpha_to_one",
        "sigma_schedule",
        "skip_prk_steps",
        "solver_order",
        "solver_p",
        "solver_type",
        "steps_offset",
        "stochastic_sampling",
        "thresholding",
        "time_shift_type",
        "timestep_spacing",
        "timestep_type",
        "use_beta_sigmas",
        "use_exponential_sigmas",
        "use_karras_sigmas",
        "use_lu_lambdas",
        "variance_type",
    }
)


def from_diffusers(config: Mapping[str, Any]) -> Convention:
    """The convention of a diffusers scheduler's config.

    Three clocks: a chain of betas (DDIM, DDPM, Euler, DPM-Solver, UniPC, ...) calls its
    network at the index 0..T-1 of the table, on variance preserving z; here level i of
    `schedules.Discrete` stands at `t = (i + 1) / T`. A flow scheduler (class
    FlowMatch..., an entry `shift`, or `use_flow_sigmas`) calls it at `T sigma`, sigma
    after the shift; the shift is that of `schedules.Shifted`. EDM schedulers go to
    `from_edm`, whose epsilon-prediction is EDM's F.

    Args:
      config: the dictionary of the scheduler; what it lacks has diffusers' default.
        Options of sampling alone are allowed and have no effect.

    Returns:
      `Convention`; kinds by `prediction_type`: "epsilon", "v_prediction", "sample",
      "flow_prediction" are eps, v, x and u.

    Raises:
      ValueError: an unknown entry, a value without a counterpart here
        (`use_dynamic_shifting`, whose shift depends on the image), or one that
        contradicts another; the message names it.
    """
    settings = {
        name: value
        for name, value in config.items()
        if name not in _SAMPLING_ONLY and not name.startswith("_")
    }
    name = str(config.get("_class_name", ""))
    if name.startswith("EDM"):
        return _diffusers_edm(settings)
    if name.startswith("FlowMatch") or "shift" in settings:
        return _diffusers_flow(settings)
    return _diffusers_chain(settings)


def _merged(defaults: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    for name in settings:
        check_name("entry of a diffusers config", name, defaults)
    return {**defaults, **settings}


def _diffusers_kind(settings: dict[str, Any], allowed: tuple[str, ...]) -> str:
    name = settings["prediction_type"]
    check_name("prediction_type", name, allowed)
    return _PREDICTION_TYPES[name]


def _diffusers_chain(settings: dict[str, Any]) -> Convention:
    settings = _merged(_CHAIN_DEFAULTS, settings)
    flow, count = settings["use_flow_sigmas"], settings["num_train_timesteps"]
    allowed = ("flow_prediction",) if flow else ("epsilon", "v_prediction", "sample")
    kind = _diffusers_kind(settings, allowed)
    if flow:
        return _flow(settings["flow_shift"], count, kind)
    schedule = schedules.Discrete.from_betas(_betas(settings))
    if settings["rescale_betas_zero_snr"]:
        rescaled = schedules.zero_terminal_snr(schedule.alphas_cumprod)
        schedule = schedules.Discrete(rescaled)
    count = len(schedule.alphas_cumprod)
    return Convention(schedule, kind, Affine(float(count), -1.0), UNSCALED)


def _betas(settings: dict[str, Any]) -> np.ndarray:
    low, high = settings["beta_start"], settings["beta_end"]
    count = settings["num_train_timesteps"]
    if settings["trained_betas"] is not None:
        return np.asarray(settings["trained_betas"], np.float64)
    known = ("linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid")
    check_name("beta_schedule", settings["beta_schedule"], known)
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
    for name in ("use_dynamic_shifting", "shift_terminal", "invert_sigmas"):
        if settings[name]:
            raise ValueError(
                f"{name}={settings[name]!r}: has no counterpart here; leave it out, "
                "and give the shift itself as 'shift'"
            )
    return _flow(settings["shift"], settings["num_train_timesteps"], "u")


def _flow(shift: float, count: int, kind: str) -> Convention:
    schedule = schedules.FlowMatching()
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


@register
class _Level:
    """`count sigma / (alpha + sigma)`."""

    schedule: Any
    count: float

    def __call__(self, t: Array) -> Array:
        return self.count * schedules.noise_level(self.schedule, t)
