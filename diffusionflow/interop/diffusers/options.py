"""Entries of the scheduler configs of diffusers, with the defaults of every class."""

from collections.abc import Mapping
from typing import Any

from diffusionflow._dataclass import check_name

_CHAIN = dict(
    num_train_timesteps=1000,
    beta_start=1e-4,
    beta_end=0.02,
    beta_schedule="linear",
    trained_betas=None,
    prediction_type="epsilon",
    timestep_spacing="linspace",
    steps_offset=0,
)
_LEADING = dict(_CHAIN, timestep_spacing="leading")
_STABLE = dict(beta_start=0.00085, beta_end=0.012)  # of Stable Diffusion
_SPACED = dict(
    use_karras_sigmas=False, use_exponential_sigmas=False, use_beta_sigmas=False
)
_THRESHOLD = dict(
    thresholding=False, dynamic_thresholding_ratio=0.995, sample_max_value=1.0
)
_CLIP = dict(clip_sample=True, clip_sample_range=1.0)
_FLOW_SIGMAS = dict(use_flow_sigmas=False, flow_shift=1.0)
_DYNAMIC = dict(use_dynamic_shifting=False, time_shift_type="exponential")
_SNR = dict(rescale_betas_zero_snr=False)
_DPM = dict(
    solver_order=2,
    algorithm_type="dpmsolver++",
    solver_type="midpoint",
    final_sigmas_type="zero",
)
_CONSISTENCY = dict(
    _LEADING,
    **_STABLE | {"beta_schedule": "scaled_linear"},
    **_CLIP | {"clip_sample": False},
    **_THRESHOLD,
    **_SNR,
    original_inference_steps=50,
    set_alpha_to_one=True,
    timestep_scaling=10.0,
)
_SOLVER = dict(_CHAIN, **_SPACED, **_THRESHOLD, **_FLOW_SIGMAS)
_UNSPACED = {  # of a class whose timesteps are always "linspace"
    name: value
    for name, value in _SOLVER.items()
    if name not in ("timestep_spacing", "steps_offset")
}
_EDM = dict(
    sigma_min=0.002,
    sigma_max=80.0,
    sigma_data=0.5,
    sigma_schedule="karras",
    num_train_timesteps=1000,
    prediction_type="epsilon",
    rho=7.0,
    final_sigmas_type="zero",
)
CHAINS: dict[str, dict[str, Any]] = {
    "DDPMScheduler": dict(
        _LEADING, **_CLIP, **_THRESHOLD, **_SNR, variance_type="fixed_small"
    ),
    "DDIMScheduler": dict(
        _LEADING, **_CLIP, **_THRESHOLD, **_SNR, set_alpha_to_one=True
    ),
    "DDIMInverseScheduler": dict(_LEADING, **_CLIP, **_SNR, set_alpha_to_one=True),
    "PNDMScheduler": dict(_LEADING, skip_prk_steps=False, set_alpha_to_one=False),
    "LCMScheduler": _CONSISTENCY,
    "TCDScheduler": _CONSISTENCY,
    "LMSDiscreteScheduler": dict(_CHAIN, **_SPACED),
    "EulerDiscreteScheduler": dict(
        _CHAIN,
        **_SPACED,
        **_SNR,
        interpolation_type="linear",
        sigma_min=None,
        sigma_max=None,
        timestep_type="discrete",
        final_sigmas_type="zero",
    ),
    "EulerAncestralDiscreteScheduler": dict(_CHAIN, **_SNR),
    "HeunDiscreteScheduler": dict(
        _CHAIN, **_STABLE, **_SPACED, **_CLIP | {"clip_sample": False}
    ),
    "KDPM2DiscreteScheduler": dict(_CHAIN, **_STABLE, **_SPACED),
    "KDPM2AncestralDiscreteScheduler": dict(_CHAIN, **_STABLE, **_SPACED),
    "DPMSolverSDEScheduler": dict(
        _CHAIN, **_STABLE, **_SPACED, noise_sampler_seed=None
    ),
    "DPMSolverMultistepScheduler": dict(
        _SOLVER,
        **_DPM,
        **_SNR,
        **_DYNAMIC,
        lower_order_final=True,
        euler_at_final=False,
        use_lu_lambdas=False,
        lambda_min_clipped=-float("inf"),
        variance_type=None,
    ),
    "DPMSolverSinglestepScheduler": dict(
        _UNSPACED,
        **_DPM,
        **_DYNAMIC,
        lower_order_final=False,
        lambda_min_clipped=-float("inf"),
        variance_type=None,
    ),
    "DEISMultistepScheduler": dict(
        _SOLVER,
        **_DYNAMIC,
        solver_order=2,
        algorithm_type="deis",
        solver_type="logrho",
        lower_order_final=True,
    ),
    "UniPCMultistepScheduler": dict(
        _SOLVER,
        **_SNR,
        **_DYNAMIC,
        solver_order=2,
        predict_x0=True,
        solver_type="bh2",
        lower_order_final=True,
        disable_corrector=(),
        solver_p=None,
        final_sigmas_type="zero",
        sigma_min=None,
        sigma_max=None,
        shift_terminal=None,
    ),
    "SASolverScheduler": dict(
        _SOLVER,
        predictor_order=2,
        corrector_order=2,
        tau_func=None,
        algorithm_type="data_prediction",
        lower_order_final=True,
        lambda_min_clipped=-float("inf"),
        variance_type=None,
    ),
}
FLOWS: dict[str, dict[str, Any]] = {
    "FlowMatchEulerDiscreteScheduler": dict(
        num_train_timesteps=1000,
        shift=1.0,
        **_DYNAMIC,
        base_shift=0.5,
        max_shift=1.15,
        base_image_seq_len=256,
        max_image_seq_len=4096,
        invert_sigmas=False,
        shift_terminal=None,
        **_SPACED,
        stochastic_sampling=False,
    ),
    "FlowMatchHeunDiscreteScheduler": dict(num_train_timesteps=1000, shift=1.0),
}
EDMS: dict[str, dict[str, Any]] = {
    "EDMEulerScheduler": _EDM,
    "EDMDPMSolverMultistepScheduler": dict(
        _EDM, **_THRESHOLD, **_DPM, lower_order_final=True, euler_at_final=False
    ),
}
CLASSES = {**CHAINS, **FLOWS, **EDMS}
# Entries that say what the network is; a class has them or refuses them.
OF_NETWORK = frozenset(
    {
        "num_train_timesteps",
        "beta_start",
        "beta_end",
        "beta_schedule",
        "trained_betas",
        "rescale_betas_zero_snr",
        "prediction_type",
        "use_flow_sigmas",
        "flow_shift",
        "shift",
        "timestep_type",
        "use_dynamic_shifting",
        "time_shift_type",
        "invert_sigmas",
        "sigma_data",
        "sigma_min",
        "sigma_max",
    }
)
# Of diffusers' other classes, whose saved configs carry them along; read by none above.
_ELSEWHERE = frozenset({"skip_prk_steps", "variance_type", "predict_epsilon"})
_PLAIN = (False, 1.0, "discrete", "exponential", "flow_prediction")  # without effect
ENTRIES = frozenset(name for entries in CLASSES.values() for name in entries)


def own(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the entries without those that begin with "_", such as `_class_name`."""
    return {name: value for name, value in config.items() if not name.startswith("_")}


def check_entries(settings: Mapping[str, Any]) -> None:
    """Raises a `ValueError` at an entry that no class has, with the nearest one."""
    for name in settings:
        check_name("entry of a diffusers config", name, ENTRIES | _ELSEWHERE)


def read(config: Mapping[str, Any]) -> tuple[str, dict[str, Any], tuple[str, ...]]:
    """Reads a config as its class does.

    Args:
      config: with `_class_name`.

    Returns:
      The name of the class, its settings with its defaults, and the names of the
      entries of other classes, which it ignores.

    Raises:
      ValueError: an unknown class or entry, or an entry of another class that would say
        something of the network.
    """
    name = config.get("_class_name")
    check_name("_class_name", str(name), CLASSES)
    settings, defaults = own(config), CLASSES[str(name)]
    check_entries(settings)
    ignored = tuple(sorted(settings.keys() - defaults.keys()))
    for entry in ignored:
        value = settings[entry]
        plain = value is None or any(value == other for other in _PLAIN)
        if entry in OF_NETWORK and not plain:
            others = [other for other in CLASSES if entry in CLASSES[other]]
            raise ValueError(
                f"{entry}={value!r}: {name} has no such entry; leave it out, or name "
                f"one of its classes: {', '.join(others)}"
            )
    known = {key: value for key, value in settings.items() if key in defaults}
    return str(name), {**defaults, **known}, ignored
