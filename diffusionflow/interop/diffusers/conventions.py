"""The conventions of networks that a scheduler of diffusers calls."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jax import Array

from diffusionflow import schedules
from diffusionflow._dataclass import check_name, is_traced, register
from diffusionflow.interop.convention import UNSCALED, Convention
from diffusionflow.interop.diffusers.options import (
    CHAINS,
    CLASSES,
    EDMS,
    FLOWS,
    OF_NETWORK,
    check_entries,
    own,
    read,
)
from diffusionflow.interop.diffusers.shifts import refuse_mu, shift_of
from diffusionflow.interop.diffusers.tables import LIFTED, chain, check_numbers
from diffusionflow.interop.edm import NoiseClock, from_edm

_PREDICTION_TYPES = {
    "epsilon": "eps",
    "v_prediction": "v",
    "sample": "x",
    "flow_prediction": "u",
}
_BETAS = ("beta_start", "beta_end", "beta_schedule")
_CHAIN_DEFAULTS = dict(  # of a chain whose class is not known
    CHAINS["DDPMScheduler"],
    use_flow_sigmas=False,
    flow_shift=1.0,
    timestep_type="discrete",
    sigma_min=None,
    sigma_max=None,
    use_dynamic_shifting=False,
    time_shift_type="exponential",
)


def from_diffusers(
    config: Mapping[str, Any],
    *,
    mu: float | None = None,
    image_seq_len: int | None = None,
) -> Convention:
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
      sigma after the shift; the shift is that of `schedules.Shifted`. With
      `use_dynamic_shifting` it is `e^mu` ("exponential") or `mu` ("linear"), mu a
      straight line in the number of image tokens: `dynamic_shift`.
    - EDM schedulers go to `from_edm`; their epsilon-prediction is EDM's F, their
      v-prediction minus F.

    Args:
      config: the dictionary of the scheduler. What it lacks has the default of its
        class; a chain of a class that is not known here must give its betas and its
        `prediction_type`. Without `_class_name` it is a flow scheduler if it has an
        entry `shift`, else DDPMScheduler with the entries of all chains. Entries that
        concern sampling alone are checked for their names and have no effect here:
        `DiffusersScheduler` reads them.
      mu: of `use_dynamic_shifting`, as in `set_timesteps(mu=...)`.
      image_seq_len: the number of image tokens in place of `mu`.

    Returns:
      `Convention`; kinds by `prediction_type`: "epsilon", "v_prediction", "sample",
      "flow_prediction" are eps, v, x and u. Called at a concrete `t < 1 / T`, that of
      a chain raises a `ValueError`; traced times cannot be checked and pass.

    Raises:
      ValueError: an unknown class or entry, an entry of another class that would say
        something of the network, a value without a counterpart here
        (`invert_sigmas`), or one that contradicts another; the message names it.
    """
    check_numbers(own(config))
    name, settings = _settings(config)
    if name in EDMS:
        refuse_mu(mu, image_seq_len)
        return _diffusers_edm(settings)
    if name in FLOWS:
        return _diffusers_flow(settings, mu, image_seq_len)
    return _diffusers_chain(name, settings, mu, image_seq_len)


def _settings(config: Mapping[str, Any]) -> tuple[str | None, dict[str, Any]]:
    """Reads the class of a config and its settings, with the defaults."""
    name, given = config.get("_class_name"), own(config)
    if name is None and "shift" in given:
        name = "FlowMatchEulerDiscreteScheduler"
    written_out = all(entry in given for entry in (*_BETAS, "prediction_type"))
    if name in CLASSES or not (name is None or written_out):
        name, settings, _ = read({**config, "_class_name": name})
        return name, settings
    check_entries(given)
    wrong = OF_NETWORK & given.keys() - _CHAIN_DEFAULTS.keys()
    for entry in sorted(wrong):
        raise ValueError(
            f"{entry}={given[entry]!r}: must be left out of a config with betas; add "
            "_class_name if it is the config of another scheduler"
        )
    return name, {**_CHAIN_DEFAULTS, **given}


def _diffusers_kind(settings: dict[str, Any], allowed: tuple[str, ...]) -> str:
    name = settings["prediction_type"]
    check_name("prediction_type", name, allowed)
    return _PREDICTION_TYPES[name]


def _diffusers_chain(
    name: str | None, settings: dict[str, Any], mu: float | None, tokens: int | None
) -> Convention:
    flow = settings.get("use_flow_sigmas")
    allowed = ("flow_prediction",) if flow else ("epsilon", "v_prediction", "sample")
    kind = _diffusers_kind(settings, allowed)
    if flow:
        k = shift_of(settings, settings["flow_shift"], mu, tokens)
        return _flow(k, settings["num_train_timesteps"], kind)
    if settings.get("use_dynamic_shifting"):
        raise ValueError(
            "use_dynamic_shifting=True: needs use_flow_sigmas=True; levels that follow "
            "from betas have no shift"
        )
    refuse_mu(mu, tokens)
    time = settings.get("timestep_type", "discrete")
    check_name("timestep_type", time, ("discrete", "continuous"))
    schedule = chain(settings, lifted=name in LIFTED)
    if time == "continuous":
        return _diffusers_continuous(settings, schedule)
    count = len(schedule.alphas_cumprod)
    return Convention(schedule, kind, _Index(float(count)), UNSCALED)


def _diffusers_continuous(
    settings: dict[str, Any], schedule: schedules.Schedule
) -> Convention:
    if settings["prediction_type"] != "v_prediction":
        raise ValueError(
            f"timestep_type='continuous' with prediction_type="
            f"{settings['prediction_type']!r}: must be 'v_prediction'"
        )
    low, high = settings["sigma_min"], settings["sigma_max"]
    if (low is None) != (high is None):
        raise ValueError(f"sigma_min={low!r}, sigma_max={high!r}: give both or neither")
    if low is not None:
        ends = (float(-2 * np.log(sigma)) for sigma in (high, low))
        schedule = schedules.Cosine(*ends)
    return Convention(schedule, "v", NoiseClock(schedule, "edm"), UNSCALED)


def _diffusers_flow(
    settings: dict[str, Any], mu: float | None, tokens: int | None
) -> Convention:
    if settings.get("invert_sigmas"):
        raise ValueError(
            "invert_sigmas=True: has no counterpart here; turn the network's time with "
            "predictions.flip_time and leave the entry out"
        )
    k = shift_of(settings, settings["shift"], mu, tokens)
    return _flow(k, settings["num_train_timesteps"], "u")


def _flow(shift: float, count: int, kind: str) -> Convention:
    schedule: schedules.Schedule = schedules.FlowMatching()
    if shift != 1:
        schedule = schedules.Shifted(schedule, shift)
    return Convention(schedule, kind, _Level(schedule, float(count)), UNSCALED)


def _diffusers_edm(settings: dict[str, Any]) -> Convention:
    outputs = {"epsilon": 1, "v_prediction": -1}  # the sign of F
    check_name("prediction_type", settings["prediction_type"], outputs)
    schedule = schedules.EDM(
        settings["sigma_min"], settings["sigma_max"], settings["rho"]
    )
    ours = from_edm("edm", sigma_data=settings["sigma_data"], schedule=schedule)
    sign = outputs[settings["prediction_type"]]
    return Convention(ours.schedule, ours.kind, ours.clock_fn, ours.scale_fn, sign)


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
