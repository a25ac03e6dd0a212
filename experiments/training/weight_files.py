"""Reads weights in files: exports, folders of diffusers, checkpoints of DiT and SiT."""

import pathlib
from typing import Any

import jax.numpy as jnp
from flax import traverse_util

from diffusionflow import interop, predictions
from diffusionflow.interop.as_json import rebuilt
from diffusionflow.interop.parameters import with_new_names
from diffusionflow.interop.weights import TORCH, read_json

KINDS = (".safetensors", ".npz", *TORCH)
OF_AUTHORS = "x_embedder.proj.weight"  # in checkpoints of DiT's and SiT's authors


def arrays(path: pathlib.Path, convention: str) -> dict[str, Any]:
    """The arrays of a folder or file by the names of our modules, float32.

    Args:
      path: of the folder or file.
      convention: how the network of the run is called; of checkpoints of DiT's authors
        "sit" says that they are SiT's.

    Raises:
      ValueError: they cannot be read.
    """
    path = _network_folder(path)
    state = interop.read_weights(path, put=lambda each: jnp.asarray(each, jnp.float32))
    if OF_AUTHORS in state:
        source = "sit" if convention == "sit" else "dit"
        params = interop.load_dit(path, source=source).network.params
        leaves = traverse_util.flatten_dict(params)
        return {".".join(name): leaf for name, leaf in leaves.items()}
    return with_new_names(state)


def _network_folder(path: pathlib.Path) -> pathlib.Path:
    """The folder of the network in that of a pipeline."""
    inside = [path / name for name in ("unet", "transformer")]
    found = [each for each in inside if (each / "config.json").is_file()]
    return found[0] if found else path


def meaning(path: pathlib.Path) -> dict[str, Any]:
    """Schedule and kind that the configs of a folder say, and scale of the data.

    Empty where they are silent, as of a file.
    """
    folder = _network_folder(path)
    if not (folder / "config.json").is_file():
        return {}
    config = read_json(folder / "config.json")
    if "schedule" in config and "kind" in config:
        names = ("schedule", "kind")
        own = {name: rebuilt(name, config[name]) for name in names}
        ours = config.get("convention") == "diffusionflow"
        return own | ({"sigma_data": config["sigma_data"]} if ours else {})
    for place in (folder, folder.parent / "scheduler"):
        if (place / "scheduler_config.json").is_file():
            scheduler = read_json(place / "scheduler_config.json")
            if scheduler.get("_class_name") != "ScoreSdeVeScheduler":
                convention = interop.from_diffusers(scheduler)
                kind = predictions.as_kind(convention.kind)
                return {"schedule": convention.schedule, "kind": kind}
    return {}
