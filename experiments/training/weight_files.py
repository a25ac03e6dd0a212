"""Reads weights in files: exports, folders of diffusers, files of DiT, SiT and EDM."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

from diffusionflow import interop, predictions
from diffusionflow.interop.as_json import described, meaning_of
from diffusionflow.interop.dit import renamed_dit
from diffusionflow.interop.edm_networks import (
    is_of_edm,
    network_of_edm,
    stated_output,
    stated_sigma_data,
)
from diffusionflow.interop.folders import ARCHITECTURES
from diffusionflow.interop.own import CLASS
from diffusionflow.interop.parameters import as_parameter, with_new_names
from diffusionflow.interop.weights import TORCH, read_json
from experiments.config import published
from experiments.config.model import Model
from experiments.runtime.errors import UsageError, check_name

KINDS = (".safetensors", ".npz", *TORCH)
# fields in which a network may differ from the one in the files: they do not change
# what it computes, or the arrays show them
FREE = {
    *("dropout", "dtype", "remat", "two_times", "out_channels", "num_train_timesteps"),
    *("img_resolution", "attn_resolutions"),  # of EDM's networks, whose names have them
    *("parent", "name"),  # of every Flax module
}
OF_AUTHORS = "x_embedder.proj.weight"  # in checkpoints of DiT's and SiT's authors


def read(path: pathlib.Path, module: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Reads arrays of a folder or file by our modules' names, and their `meaning`.

    Args:
      path: of the folder or file.
      module: of the run, whose number of heads checkpoints of DiT's authors have; they
        do not say it.

    Returns:
      `{name: array}`, float32, and what is known of schedule, kind and network.

    Raises:
      ValueError: they cannot be read.
    """
    said, path = meaning(path), _network_folder(path)
    state = interop.read_weights(path, put=as_parameter)
    if "network" not in said and is_of_edm(state):
        return _of_edm(state, path)
    if OF_AUTHORS not in state:
        return with_new_names(state), said
    heads = getattr(module, "num_attention_heads", None)
    network, state = renamed_dit(state, heads)
    return state, said | {"network": network}


def _of_edm(
    state: dict[str, Any], path: pathlib.Path
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Reads the arrays of a file of EDM, and what is known of its preconditioning."""
    output = stated_output(path, state)
    network, state = network_of_edm(state)
    said = {"network": network}
    if output is None:
        return state, said
    sigma_data = stated_sigma_data(path) if output == "edm" else None
    known: dict[str, Any] = {} if sigma_data is None else {"sigma_data": sigma_data}
    kind = interop.from_edm(output, **known).kind
    said |= {"convention": output, "kind": predictions.as_kind(kind)}
    return state, said | known


def _network_folder(path: pathlib.Path) -> pathlib.Path:
    """Finds the folder of the network in that of a pipeline."""
    inside = [path / name for name in ("unet", "transformer")]
    found = [each for each in inside if (each / "config.json").is_file()]
    return found[0] if found else path


def meaning(path: pathlib.Path) -> dict[str, Any]:
    """Reads what the configs of a folder say; empty where silent, as for a file.

    Returns:
      Of these what is known: `network`, the module; `convention`, by which it is
      called; `schedule`, `kind` and `sigma_data`.

    Raises:
      ValueError: a config is of no network or schedule that is known here.
    """
    folder = _network_folder(path)
    if not (folder / "config.json").is_file():
        return {}
    config = read_json(folder / "config.json")
    if config.get("_class_name") == CLASS:
        network, schedule, kind = meaning_of(config)
        convention = config["convention"]
        own = dict(network=network, convention=convention, schedule=schedule, kind=kind)
        scaled = convention in (CLASS, "edm")
        return own | ({"sigma_data": config["sigma_data"]} if scaled else {})
    name = str(config.get("_class_name"))
    check_name("_class_name", name, ARCHITECTURES)
    return {"network": ARCHITECTURES[name](config)} | _scheduled(folder)


def _scheduled(folder: pathlib.Path) -> dict[str, Any]:
    """Reads what the scheduler's config of a folder of diffusers says."""
    for place in (folder, folder.parent / "scheduler"):
        if (place / "scheduler_config.json").is_file():
            scheduler = read_json(place / "scheduler_config.json")
            said = {"convention": "diffusers"}
            if scheduler.get("_class_name") == "ScoreSdeVeScheduler":
                return said
            found = interop.from_diffusers(scheduler)
            kind = predictions.as_kind(found.kind)
            return said | {"schedule": found.schedule, "kind": kind}
    return {}


def check_function(said: Mapping[str, Any], net: Any, where: str) -> None:
    """Refuses files whose arrays fit, and whose network computes something else.

    Args:
      said: `meaning` of the files.
      net: of the run.
      where: the files were given, for the message.

    Raises:
      UsageError: fields of the network, or the convention, differ; it names them.
    """
    module, convention = published.unwrapped(net)
    lines = []
    if said.get("convention", convention) != convention:
        lines.append(_change("convention", said["convention"], convention))
    there, here = (_fields(each) for each in (said.get("network"), module))
    lines += [
        _change(name, there[name], here[name])
        for name in there
        if name in here and _plain(name, there[name]) != _plain(name, here[name])
    ]
    if lines:
        raise UsageError(
            f"{where}: the network of the files computes something else with these "
            f"arrays: {'; '.join(lines)}; set config.network as in the files"
        )


def _fields(module: Any) -> dict[str, Any]:
    """Returns the fields that change what a network computes; none if no dataclass."""
    if not dataclasses.is_dataclass(module):
        return {}
    names = [each.name for each in dataclasses.fields(module) if each.name not in FREE]
    return {name: getattr(module, name) for name in names}


def _change(name: str, there: Any, here: Any) -> str:
    return f"{name}: {there} in the files, {here} now"


def differences(said: Mapping[str, Any], model: Model) -> list[str]:
    """Lists how schedule, kind, scale of files differ from the run's, a line each."""
    objective = model.objective
    here = {"schedule": objective.schedule, "kind": objective.kind}
    here["sigma_data"] = model.sigma_data
    lines = [
        _change(name, said[name], here[name])
        for name in here
        if name in said and _plain(name, said[name]) != _plain(name, here[name])
    ]
    classes = type(said.get("network")), type(published.unwrapped(model.net)[0])
    if "network" in said and classes[0] is not classes[1]:  # one of a user's own
        lines.append(_change("network", *(each.__name__ for each in classes)))
    return lines


def _plain(name: str, value: Any) -> Any:
    """Describes a schedule or kind with all its numbers; a user's own by its repr."""
    try:
        return described(name, value)
    except ValueError:
        return repr(value)
