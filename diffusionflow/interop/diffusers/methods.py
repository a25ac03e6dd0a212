"""Our samplers for diffusers' schedulers."""

from typing import Any

import numpy as np
from jax import Array

from diffusionflow import _xp as xp
from diffusionflow import samplers
from diffusionflow._dataclass import check_name, register
from diffusionflow._numeric import root
from diffusionflow.interop.diffusers.steps import DiffusersSteps
from diffusionflow.schedules import Schedule

Settings = dict[str, Any]
_FORMS = {"dpmsolver++": "x", "dpmsolver": "eps"}
_FEW = 15  # below so many steps `lower_order_final` has an effect


@register
class TCD(samplers.FlowMap):
    """Gamma-sampling with timesteps in place of levels: trajectory consistency.

    From level s of T the jump goes on to the timestep `floor((1 - gamma) n_s)`, with
    `n_s = T s - 1`, and noise brings it back to s. `samplers.FlowMap` takes its gamma
    of the noise.

    Args:
      gamma: in [0, 1]; 0 is DDIM.
      num_levels: T.

    Source: Zheng et al. 2024, arXiv 2402.19159, strategic stochastic sampling.
    """

    num_levels: float = 1000.0

    def plan(self, t: Array, s: Array, schedule: Schedule) -> dict[str, Array]:
        index = xp.round(s * self.num_levels) - 1
        kept = xp.floor((1 - xp.asarray(self.gamma, s.dtype)) * index + 1e-9)
        toward = xp.where(index > kept, (kept + 1) / self.num_levels, s)
        alpha = schedule.alpha(s)
        ratio = alpha / schedule.alpha(toward)
        return dict(
            t=t,
            s=toward,
            x=alpha,
            eps=ratio * schedule.sigma(toward),
            noise=root((1 - ratio) * (1 + ratio)),
        )


def sampler(
    name: str,
    settings: Settings,
    num_steps: int,
    listed: DiffusersSteps,
    eta: float | None,
) -> samplers.Sampler:
    """Makes the sampler that takes a scheduler's steps.

    Args:
      name: class.
      settings: of its config.
      num_steps: N.
      listed: its steps. Those of N that are not in it are at the end, and are left to
        `samplers.sample` or change nothing.
      eta: of `DDIMScheduler.step` and `TCDScheduler.step`; None for their defaults.

    Raises:
      ValueError: the method is not shipped, with the way out.
    """
    if eta is not None and name not in ("DDIMScheduler", "TCDScheduler"):
        raise ValueError(f"eta={eta!r}: must be None; {name} takes none")
    missing = max(num_steps - len(listed.t), 0)
    match name:
        case "DDIMScheduler":
            return samplers.DDIMEta(0.0 if eta is None else eta)
        case "DDPMScheduler":
            return _ddpm(settings)
        case "LCMScheduler":
            return samplers.FlowMap(1.0)
        case "TCDScheduler":
            count = float(settings["num_train_timesteps"])
            return TCD(0.3 if eta is None else eta, count)
        case "EulerAncestralDiscreteScheduler":
            return samplers.DDIMEta(1.0)
        case "EulerDiscreteScheduler" | "EDMEulerScheduler":
            return samplers.Euler("eps")
        case "HeunDiscreteScheduler":
            return samplers.Heun("eps")
        case "LMSDiscreteScheduler":
            return samplers.AdamsBashforth(4, "eps")
        case "KDPM2DiscreteScheduler":
            return samplers.DPMSolver2S("eps")
        case "KDPM2AncestralDiscreteScheduler":
            return samplers.Ancestral2S("eps")
        case "DPMSolverSDEScheduler":
            seed = settings["noise_sampler_seed"]
            if seed is not None:
                raise ValueError(
                    f"noise_sampler_seed={seed!r}: must be None; the noise comes from "
                    "the key that is passed to sample(...)"
                )
            return samplers.SDEDPMSolver2S()
        case "FlowMatchEulerDiscreteScheduler":
            if settings["stochastic_sampling"]:
                return samplers.FlowMap(1.0)
            return samplers.Euler("u")
        case "FlowMatchHeunDiscreteScheduler":
            return samplers.Heun("u")
        case "DPMSolverMultistepScheduler" | "EDMDPMSolverMultistepScheduler":
            return _multistep(settings, num_steps, missing)
        case "DEISMultistepScheduler":
            order = settings["solver_order"]
            known = ("deis", "dpmsolver", "dpmsolver++")  # it takes all for "deis"
            check_name("algorithm_type", settings["algorithm_type"], known)
            types = ("logrho", "midpoint", "heun", "bh1", "bh2")
            check_name("solver_type", settings["solver_type"], types)
            lower = _lowered(settings, order, num_steps, missing)
            return samplers.DPMSolver(order, "eps", "taylor", lower_final=lower)
        case "UniPCMultistepScheduler":
            return _unipc(settings, missing)
        case "PNDMScheduler":
            return _pndm(settings, num_steps, listed)
        case "DPMSolverSinglestepScheduler":
            return _singlestep(settings, missing)
        case "SASolverScheduler":
            return _sa_solver(settings, missing, listed)
    raise ValueError(
        f"{name}: its config is not read; samplers.invert goes from data to noise, to "
        "be used with the convention and the grid of this scheduler"
    )


def _ddpm(settings: Settings) -> samplers.Sampler:
    variances = {
        "fixed_small": "posterior",
        "fixed_small_log": "posterior",
        "fixed_large": "forward",
    }
    kind = settings["variance_type"]
    if kind not in variances:
        raise ValueError(
            f"variance_type={kind!r}: must be {', '.join(variances)}; of a network "
            "that predicts its variance too, pass the mean alone and one of these"
        )
    return samplers.ddpm(variances[kind])


def _kind_and_second(settings: Settings) -> tuple[str, str]:
    """Reads the algorithm of a DPM-Solver, and our name for its second-order steps."""
    kind = settings["algorithm_type"]
    kind = "dpmsolver++" if kind == "deis" else kind
    _check_variance(settings)
    forms = {
        **dict.fromkeys(("midpoint", "logrho", "bh1", "bh2"), "midpoint"),
        "heun": "taylor",
    }
    check_name("solver_type", settings["solver_type"], forms)
    if kind not in _FORMS and kind != "sde-dpmsolver++":
        raise ValueError(
            f"algorithm_type={kind!r}: not implemented; write 'sde-dpmsolver++', the "
            "same method in terms of x"
        )
    return kind, forms[settings["solver_type"]]


def _check_variance(settings: Settings) -> None:
    if settings.get("variance_type") is not None:
        raise ValueError(
            f"variance_type={settings['variance_type']!r}: must be None; of a network "
            "that predicts its variance too, pass the mean alone and leave it out"
        )


def _multistep(settings: Settings, num_steps: int, missing: int) -> samplers.Sampler:
    order, (kind, second) = settings["solver_order"], _kind_and_second(settings)
    lower = _lowered(settings, order, num_steps, missing)
    if kind in _FORMS:
        return samplers.DPMSolver(order, _FORMS[kind], second, "reference", lower)
    to_data = settings["final_sigmas_type"] == "zero"
    if order > 2 or (lower and not to_data):
        raise ValueError(
            f"algorithm_type='sde-dpmsolver++' with solver_order={order}, "
            f"final_sigmas_type={settings['final_sigmas_type']!r}: must be of order 1 "
            "or 2 and end at 'zero'; samplers.SDEDPMSolver has an order 3 of its own"
        )
    return samplers.SDEDPMSolver(order, 1.0, second)


def _lowered(settings: Settings, order: int, num_steps: int, missing: int) -> int:
    """Computes `lower_final` of `samplers.DPMSolver` for steps that are not missing."""
    lower = 1 if settings.get("euler_at_final") else 0
    if settings["lower_order_final"] and num_steps < _FEW:
        lower = 2
    if lower <= missing:
        return 0
    if missing and order > 2:
        raise ValueError(
            f"solver_order={order} with {num_steps} steps: the step before the last is "
            f"of order 2 there; take at least {_FEW} steps, or solver_order=2"
        )
    return 0 if missing else lower


def _unipc(settings: Settings, missing: int) -> samplers.Sampler:
    for name in ("disable_corrector", "solver_p"):
        if settings[name]:
            raise ValueError(
                f"{name}={settings[name]!r}: has no counterpart here; leave it out"
            )
    if missing:
        raise ValueError(
            "final_sigmas_type='sigma_min' with UniPC: its last step would have length "
            "0; write final_sigmas_type='zero'"
        )
    order, kind = settings["solver_order"], settings["solver_type"]
    kind = "bh2" if kind in ("midpoint", "heun", "logrho") else kind
    lower = order if settings["lower_order_final"] else 0
    variable = "x" if settings["predict_x0"] else "eps"
    return samplers.UniPC(order, kind, variable, lower)


def _pndm(
    settings: Settings, num_steps: int, listed: DiffusersSteps
) -> samplers.Sampler:
    kind, skip = settings["prediction_type"], settings["skip_prk_steps"]
    if kind != "epsilon":
        raise ValueError(
            f"prediction_type={kind!r} with PNDMScheduler: it extrapolates that, and "
            "samplers.PNDM extrapolates eps; take another scheduler"
        )
    if not np.array_equal(listed.t[1:], listed.s[:-1]):
        raise ValueError(
            f"timestep_spacing={settings['timestep_spacing']!r}, {num_steps} steps: "
            "PNDMScheduler aims elsewhere than where it calls the network next; write "
            "timestep_spacing='leading'"
        )
    length = settings["num_train_timesteps"] // num_steps
    if not skip and (num_steps < 4 or length % 2):
        raise ValueError(
            f"num_steps={num_steps}: must be at least 4, with steps of an even number "
            f"of timesteps (here {length}), for the Runge-Kutta steps of "
            "PNDMScheduler; or write skip_prk_steps=True"
        )
    return samplers.PNDM(4, "heun" if skip else "runge_kutta")


def _singlestep(settings: Settings, missing: int) -> samplers.Sampler:
    order, (kind, second) = settings["solver_order"], _kind_and_second(settings)
    if missing and order > 1:
        raise ValueError(
            "final_sigmas_type='sigma_min' with the grid of levels of a singlestep "
            "solver: its last step would have length 0; write 'zero'"
        )
    lower = bool(settings["lower_order_final"])
    if kind in _FORMS:
        form = _FORMS[kind]
        return samplers.DPMSolverSinglestep(order, form, second, second, lower)
    return samplers.SDEDPMSolverSinglestep(order, "x", second, second, lower)


def _sa_solver(
    settings: Settings, missing: int, listed: DiffusersSteps
) -> samplers.Sampler:
    _check_variance(settings)
    if settings["tau_func"] is not None:
        raise ValueError(
            f"tau_func={settings['tau_func']!r}: must be None; samplers.SASolver(tau=, "
            "t_min=, t_max=) has other noise"
        )
    if missing:
        raise ValueError(
            "SASolverScheduler with the levels of a Karras, exponential, beta or flow "
            "grid: its last step would have length 0; leave use_..._sigmas out"
        )
    forms = {"data_prediction": "x", "noise_prediction": "eps"}
    check_name("algorithm_type", settings["algorithm_type"], forms)
    noisy = listed.t[(listed.timesteps >= 200) & (listed.timesteps <= 800)]
    half = 0.5 / settings["num_train_timesteps"]
    some = len(noisy) > 0
    return samplers.SASolver(
        settings["predictor_order"],
        settings["corrector_order"],
        tau=float(some),
        t_min=float(noisy[-1] - half) if some else 0.0,
        t_max=float(noisy[0] + half) if some else 1.0,
        lower_final=4 if settings["lower_order_final"] else 0,
        variable=forms[settings["algorithm_type"]],
    )
