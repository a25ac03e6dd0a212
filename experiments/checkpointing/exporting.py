"""Writes the network of a run as safetensors, for readers elsewhere."""

import importlib.util
import pathlib
from typing import NamedTuple

from diffusionflow import interop
from diffusionflow.interop import as_json, own
from experiments.checkpointing import diffusers_format, restore
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

    plans: list[diffusers_format.Plan] = []

    def check(request: Request, model: Model) -> None:
        del request
        _check_model(model)
        if settings.format == "diffusers":
            plans.append(diffusers_format.plan(model))
        else:
            _check_described(model)

    names = (settings.weights,)
    with progress.announced("loading the weights"):
        (loaded,) = restore.load_each(pathlib.Path(workdir), request, names, check)
    with naming("--workdir"), progress.announced("writing the weights"):
        if settings.format == "diffusers":
            _save_for_diffusers(out, loaded, plans[-1])
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


def _save_for_diffusers(
    out: pathlib.Path, loaded: Loaded, plan: diffusers_format.Plan
) -> None:
    """Writes a folder that diffusers opens."""
    params = diffusers_format.params(loaded.model, plan.network, loaded.params)
    files = {"scheduler_config.json": plan.scheduler}
    own.write_folder(out, plan.config, params, files)


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
