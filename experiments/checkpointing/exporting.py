"""Writes the network of a run as safetensors, for readers elsewhere."""

import importlib.util
import pathlib
from typing import Any, NamedTuple

from diffusionflow import interop, schedules
from diffusionflow.interop import as_json, own
from experiments.checkpointing import restore
from experiments.checkpointing.loaded import Loaded, Request
from experiments.config import published
from experiments.config.model import Model
from experiments.runtime import progress
from experiments.runtime.errors import UsageError, naming

FORMATS = ("safetensors", "diffusers")


class Settings(NamedTuple):
    """What to export.

    Fields:
      out: folder, which is new.
      format: one of `FORMATS`.
      weights: "ema" or "raw".
      sigma_rel: width of the average, or None for the one that the run tracks.
      step: of the checkpoint, or None for the newest.
    """

    out: str
    format: str = "safetensors"
    weights: str = "ema"
    sigma_rel: float | None = None
    step: int | None = None


def export(workdir: str | pathlib.Path, settings: Settings) -> pathlib.Path:
    """Writes the weights of a checkpoint and what they mean into a folder.

    `interop.load` opens it.

    Args:
      workdir: of the run.
      settings: what to export.

    Returns:
      The folder.

    Raises:
      UsageError: there is no such checkpoint, the folder exists, or the network cannot
        be written in that format: this is found before the weights are read.
    """
    out = pathlib.Path(settings.out)
    if out.exists():
        raise UsageError(f"--out={out} exists: give the path of a new folder")
    if importlib.util.find_spec("safetensors") is None:
        raise UsageError("export needs safetensors: pip install safetensors")
    request = Request(
        weights=settings.weights, sigma_rel=settings.sigma_rel, step=settings.step
    )

    def check(request: Request, model: Model) -> None:
        del request
        _check_model(model)
        if settings.format == "diffusers":
            for_diffusers(model)
        else:
            _check_described(model)

    names = (settings.weights,)
    with progress.announced("loading the weights"):
        (loaded,) = restore.load_each(pathlib.Path(workdir), request, names, check)
    with naming("--workdir"), progress.announced("writing the weights"):
        if settings.format == "diffusers":
            config, scheduler = for_diffusers(loaded.model)
            more = {"scheduler_config.json": scheduler}
            own.write_folder(out, config, loaded.params, more)
        else:
            _save(out, loaded)
    print(f"{_words(loaded)}, weights {loaded.digest}\n{out}", flush=True)
    return out


def _check_model(model: Model) -> None:
    """Raises a `UsageError` where a network has no prediction at one time."""
    if not model.predicts_at_one_time:
        raise UsageError(
            "the network of this distillation.method only jumps from one time to "
            "another, and a reader would take it for a prediction: it cannot be "
            "exported; sample it with diffusionflow sample"
        )


def _check_described(model: Model) -> None:
    """Raises a `UsageError` where a reader elsewhere could not build the parts."""
    parts = {
        "network": published.unwrapped(model.net)[0],
        "schedule": model.objective.schedule,
        "kind": model.objective.kind,
    }
    with naming("--format=safetensors"):
        for name, part in parts.items():
            as_json.described(name, part)


def _save(out: pathlib.Path, loaded: Loaded) -> None:
    """Writes the folder of `interop.save`."""
    model = loaded.model
    module, convention = published.unwrapped(model.net)
    null = getattr(model.net, "null_label", None)
    interop.save(
        out,
        module,
        loaded.params,
        schedule=model.objective.schedule,
        kind=model.objective.kind,
        event_shape=model.event_shape,
        sigma_data=model.sigma_data,
        convention=convention,
        facts={
            "num_classes": model.num_classes,
            "null_label": null,
            "class_names": list(loaded.identity["examples"].get("class_names", ())),
            "levels": model.transform.levels,
            "exported": {
                "step": loaded.request.step,
                "weights": _words(loaded),
                "digest": loaded.digest,
            },
        },
    )


def _words(loaded: Loaded) -> str:
    request = loaded.request
    width = "" if request.sigma_rel is None else f" of width {request.sigma_rel:g}"
    return f"{request.weights} weights{width} of step {request.step:,}"


def for_diffusers(model: Model) -> tuple[dict[str, Any], dict[str, Any]]:
    """Makes `config.json` and `scheduler_config.json` of a network that diffusers has.

    Raises:
      UsageError: diffusers has no such network or schedule.
    """
    module, convention = published.unwrapped(model.net)
    if convention != "diffusers":
        name = type(module).__name__
        raise UsageError(
            f"--format=diffusers: diffusers has no {name} as it is called here; "
            "train network.name unet2d or dit_transformer2d, or take "
            "--format=safetensors"
        )
    with naming("--format=diffusers"):
        scheduler = scheduler_config(model.objective.schedule, model.objective.kind)
    names = {"UNet2D": "UNet2DModel", "DiTTransformer2D": "DiTTransformer2DModel"}
    settings = as_json.described("network", module)
    del settings["_class"]
    size = model.event_shape[:2]
    square = size[0] if size[0] == size[1] else list(size)
    config = {"_class_name": names[type(module).__name__], "sample_size": square}
    for name in ("shared_embedding", "frequency_shift"):
        default = getattr(type(module), name, None)
        if settings.pop(name, default) != default:
            raise UsageError(
                f"--format=diffusers: network.{name} must be {default}, as diffusers "
                "has it; take --format=safetensors"
            )
    return config | settings, scheduler  # of a DiT with its own sample_size


def scheduler_config(schedule: schedules.Schedule, kind: Any) -> dict[str, Any]:
    """Converts a noise schedule to the config of the matching scheduler of diffusers.

    Raises:
      ValueError: it has none.
    """
    types = {"eps": "epsilon", "v": "v_prediction", "x": "sample"}
    if isinstance(schedule, schedules.Discrete) and str(kind) in types:
        alphas = schedule.alphas_cumprod
        before = [1.0, *alphas[:-1].tolist()]
        betas = [1 - a / b for a, b in zip(alphas.tolist(), before, strict=True)]
        return {
            "_class_name": "DDPMScheduler",
            "num_train_timesteps": len(betas),
            "trained_betas": betas,
            "prediction_type": types[str(kind)],
            "clip_sample": False,
        }
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
