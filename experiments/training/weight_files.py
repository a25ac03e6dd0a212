"""Reads weights in files: exports, folders of diffusers, checkpoints of DiT and SiT."""

import pathlib
from typing import Any

import jax.numpy as jnp

from diffusionflow import interop, predictions
from diffusionflow.interop.dit import renamed_dit
from diffusionflow.interop.folders import ARCHITECTURES
from diffusionflow.interop.own import CLASS, meaning_of
from diffusionflow.interop.parameters import with_new_names
from diffusionflow.interop.weights import TORCH, read_json
from experiments.runtime.errors import check_name

KINDS = (".safetensors", ".npz", *TORCH)
OF_AUTHORS = "x_embedder.proj.weight"  # in checkpoints of DiT's and SiT's authors


def read(path: pathlib.Path, module: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The arrays of a folder or file by the names of our modules, and their `meaning`.

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
    state = interop.read_weights(path, put=lambda each: jnp.asarray(each, jnp.float32))
    if OF_AUTHORS not in state:
        return with_new_names(state), said
    heads = getattr(module, "num_attention_heads", None)
    network, state = renamed_dit(state, heads)
    return state, said | {"network": network}


def _network_folder(path: pathlib.Path) -> pathlib.Path:
    """The folder of the network in that of a pipeline."""
    inside = [path / name for name in ("unet", "transformer")]
    found = [each for each in inside if (each / "config.json").is_file()]
    return found[0] if found else path


def meaning(path: pathlib.Path) -> dict[str, Any]:
    """What the configs of a folder say, empty where they are silent, as of a file.

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
        ours = convention == CLASS
        return own | ({"sigma_data": config["sigma_data"]} if ours else {})
    name = str(config.get("_class_name"))
    check_name("_class_name", name, ARCHITECTURES)
    return {"network": ARCHITECTURES[name](config)} | _scheduled(folder)


def _scheduled(folder: pathlib.Path) -> dict[str, Any]:
    """What the scheduler's config of a folder of diffusers says."""
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
