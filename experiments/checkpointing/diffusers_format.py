"""The network of a run in the format of diffusers: its configs and parameters.

Networks of published architectures are written as they are. A U-Net or a DiT of this
library becomes one of diffusers' where that is the same function; its scheduler is then
a table of noise levels of which level n is the network's time at timestep n.
"""

from typing import Any, NamedTuple

import numpy as np

from diffusionflow import schedules
from diffusionflow.interop import as_json
from diffusionflow.interop.diffusers.networks import (
    TIMESTEPS,
    architecture_of,
    converted,
)
from experiments.config import published
from experiments.config.model import Model
from experiments.runtime.errors import UsageError, naming

TYPES = {"eps": "epsilon", "v": "v_prediction", "x": "sample"}
NAMES = {"UNet2D": "UNet2DModel", "DiTTransformer2D": "DiTTransformer2DModel"}
WAY_OUT = "or take --format=safetensors"
MOST_ALPHA = 1 - 2.0**-24  # the float32 below 1


class Plan(NamedTuple):
    """What is written of a run but its parameters.

    Fields:
      config: `config.json`.
      scheduler: `scheduler_config.json`.
      network: of `networks.pretrained`, which diffusers has.
    """

    config: dict[str, Any]
    scheduler: dict[str, Any]
    network: Any


def plan(model: Model) -> Plan:
    """Makes the configs of a network that diffusers has.

    Args:
      model: of the run.

    Raises:
      UsageError: diffusers has no such network or schedule.
    """
    module, convention = published.unwrapped(model.net)
    with naming("--format=diffusers"):
        if convention == "diffusionflow":
            module = _architecture(module, model)
            scheduler = level_config(model)
        elif convention != "diffusers":
            raise ValueError(
                f"diffusers has no {type(module).__name__} as it is called by "
                f"network.convention={convention}; {WAY_OUT}"
            )
        else:
            objective = model.objective
            scheduler = scheduler_config(objective.schedule, objective.kind)
    settings = as_json.described("network", module)
    del settings["_class"]
    settings.pop("shared_embedding", None)  # `params` writes a copy for each block
    if (shift := settings.pop("frequency_shift", 1)) != 1:
        raise UsageError(
            f"--format=diffusers: network.frequency_shift={shift:g}: must be 1, as "
            f"diffusers has it, {WAY_OUT}"
        )
    size = model.event_shape[:2]
    square = size[0] if size[0] == size[1] else list(size)
    config = {"_class_name": NAMES[type(module).__name__], "sample_size": square}
    # a DiT places its patches by a sample_size of its own, which is kept
    return Plan(config | settings, scheduler, module)


def params(model: Model, network: Any, weights: Any) -> Any:
    """Returns the parameters of a run under the names of diffusers.

    Args:
      model: of the run.
      network: of its `plan`.
      weights: the parameters.
    """
    module, convention = published.unwrapped(model.net)
    if convention == "diffusionflow":
        return converted(module, weights, network)
    if not getattr(module, "shared_embedding", False):
        return weights
    found = {name: dict(part) for name, part in weights.items() if name != "emb"}
    for name, part in found.items():
        if name.startswith("transformer_blocks."):
            part["norm1"] = {**part["norm1"], "emb": weights["emb"]}
    return found


def _architecture(module: Any, model: Model) -> Any:
    try:
        return architecture_of(module, model.event_shape)
    except ValueError as error:
        raise ValueError(
            f"{error}; train a network that it has, such as network.name=unet2d or "
            f"dit_transformer2d, {WAY_OUT}"
        ) from error


def level_config(model: Model) -> dict[str, Any]:
    """Makes the config of a scheduler for a U-Net or DiT of this library.

    The network sees noise levels alone, so that the table may be another than its
    schedule: at timestep n it has `sigma / (alpha + sigma) = n / TIMESTEPS`, and half
    a step at n = 0, where there would be no noise. Below n = 7 diffusers' float32
    cannot tell such levels apart: see `_betas`.

    Args:
      model: of the run.

    Returns:
      The config, plain JSON values.

    Raises:
      ValueError: no scheduler of diffusers scales z as the network's was, or has its
        prediction type.
    """
    schedule, kind = model.objective.schedule, str(model.objective.kind)
    if model.sigma_data != 1:
        raise ValueError(
            f"sigma_data={model.sigma_data:g}: must be 1, as no scheduler of diffusers "
            f"scales z by another one; train with it, {WAY_OUT}"
        )
    t = np.linspace(0, 1, 11)
    squares = np.asarray(schedule.alpha(t)) ** 2 + np.asarray(schedule.sigma(t)) ** 2
    if kind not in ("eps", "x") and not (kind == "v" and np.allclose(squares, 1)):
        raise ValueError(
            f"{kind} on {schedule!r}: must be eps or x, or v on a schedule with "
            "alpha^2 + sigma^2 = 1, as diffusers has no scheduler that divides z by "
            f"sqrt(alpha^2 + sigma^2) for others; train with one, {WAY_OUT}"
        )
    time = np.arange(TIMESTEPS) / TIMESTEPS
    time[0] = 0.5 / TIMESTEPS
    ratio = (time / (1 - time)) ** 2  # sigma^2 / alpha^2
    betas = _betas(1 / (1 + ratio))
    return _of_betas(betas, kind) | {"timestep_spacing": "trailing"}


def _betas(alphas_cumprod: np.ndarray) -> list[float]:
    """Computes betas whose products in diffusers are nearest to those given.

    diffusers holds betas, 1 - betas and their products in float32, and every rounding
    of a factor stays in all later products: here each factor makes up for those before
    it. Below alpha^2 = 1 the numbers of float32 are 2^-24 apart, so that no level has a
    sigma below 2^-12; sigma^2 rises by at least 2^-24 from each level to the next.
    """
    product, betas = 1.0, []
    for exact in alphas_cumprod.tolist():
        beta = 1 - np.float32(min(exact / product, MOST_ALPHA))
        product *= float(1 - beta)
        betas.append(float(beta))
    return betas


def _of_betas(betas: list[float], kind: Any) -> dict[str, Any]:
    return {
        "_class_name": "DDPMScheduler",
        "num_train_timesteps": len(betas),
        "trained_betas": betas,
        "prediction_type": TYPES[str(kind)],
        "clip_sample": False,
    }


def scheduler_config(schedule: schedules.Schedule, kind: Any) -> dict[str, Any]:
    """Converts a noise schedule to the config of the matching scheduler of diffusers.

    Args:
      schedule: on which the network was trained.
      kind: its prediction type.

    Returns:
      The config, plain JSON values.

    Raises:
      ValueError: it has none.
    """
    if isinstance(schedule, schedules.Discrete) and str(kind) in TYPES:
        alphas = schedule.alphas_cumprod
        before = [1.0, *alphas[:-1].tolist()]
        betas = [1 - a / b for a, b in zip(alphas.tolist(), before, strict=True)]
        return _of_betas(betas, kind)
    shift = 1.0
    base = schedule
    if isinstance(base, schedules.Shifted):
        shift, base = float(base.k), base.base
    plain = isinstance(base, schedules.FlowMatching) and base.sigma_min == 0
    if plain and str(kind) in ("u", "dz_dt"):
        return {
            "_class_name": "FlowMatchEulerDiscreteScheduler",
            "num_train_timesteps": 1000,
            "shift": shift,
        }
    raise ValueError(
        f"no scheduler for {kind} on {schedule!r}: must be eps, v or x on a table such "
        "as linear_betas, or u on flow_matching; or take --format=safetensors"
    )
