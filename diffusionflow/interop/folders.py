"""Folders of published networks in the layout of diffusers."""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

from diffusionflow import schedules
from diffusionflow._dataclass import check_name
from diffusionflow.interop.convention import UNSCALED, Convention
from diffusionflow.interop.diffusers import from_diffusers
from diffusionflow.interop.edm import NoiseClock
from diffusionflow.interop.hub import local_path
from diffusionflow.interop.parameters import as_parameter, entries_of, with_new_names
from diffusionflow.interop.pretrained import Pretrained, assembled
from diffusionflow.interop.weights import read_json, read_weights

# entries of config.json that say nothing of the network
ELSEWHERE = ("sample_size",)
PARTS = ("", "unet/", "transformer/")  # of a folder that may hold the network
VE = "ScoreSdeVeScheduler"
VE_ENTRIES = dict(  # with its defaults
    num_train_timesteps=2000,
    snr=0.15,
    sigma_min=0.01,
    sigma_max=1348.0,
    sampling_eps=1e-5,
    correct_steps=1,
)


def load(
    path: str | pathlib.Path, *, scheduler: Mapping[str, Any] | None = None
) -> Pretrained:
    """Opens a published network: architecture, weights and conventions.

    Args:
      path: a folder that `save` wrote, or one in the layout of diffusers: of a network
        (`config.json` and its weights) or of a pipeline (`model_index.json`, the
        network in `unet` or `transformer`, `scheduler/scheduler_config.json`); or the
        same on the hub, `hf://owner/name[@revision]`, by huggingface_hub.
      scheduler: the dictionary of the scheduler's config; by default it is read from
        `scheduler_config.json` in the folder, or in the pipeline's `scheduler`.

    Returns:
      `Pretrained`, parameters in float32.

    Raises:
      ValueError: a file is missing or corrupted, the class or an entry of a config is
        not known here, or the weights are not exactly those of the network; the
        message lists names.
    """
    folder = _network_folder(local_path(path, PARTS))
    config = read_json(folder / "config.json")
    name = str(config.get("_class_name"))
    if name == "diffusionflow":
        from diffusionflow.interop.own import open_own

        return open_own(folder, config)
    check_name("_class_name", name, ARCHITECTURES)
    module = ARCHITECTURES[name](config)
    scheduler = _scheduler(folder) if scheduler is None else scheduler
    convention = _convention(scheduler)
    state = with_new_names(read_weights(folder, put=as_parameter))
    model = assembled(module, state, convention, config, name)
    return dataclasses.replace(model, scheduler=scheduler)


def _network_folder(path: pathlib.Path) -> pathlib.Path:
    if path.is_file():
        raise ValueError(
            f"{path.name} is a file: load opens a folder in the layout of diffusers; "
            "load_dit opens a file of DiT's or SiT's authors, load_edm one of EDM's"
        )
    if not path.is_dir():
        raise ValueError(
            f"no folder {str(path)!r}: give a local folder in the layout of diffusers, "
            "or hf://owner/name"
        )
    for part in PARTS:
        if (path / part / "config.json").is_file():
            return path / part
    raise ValueError(
        f"no network in {str(path)!r}: must hold config.json, or a folder unet or "
        "transformer with one"
    )


def _scheduler(folder: pathlib.Path) -> dict[str, Any]:
    for place in (folder, folder.parent / "scheduler"):
        if (place / "scheduler_config.json").is_file():
            return read_json(place / "scheduler_config.json")
    raise ValueError(
        f"no scheduler_config.json in {str(folder)!r}: give scheduler=, a dictionary "
        "such as {'_class_name': 'DDPMScheduler'}; it says how the network was trained"
    )


def _convention(config: Mapping[str, Any]) -> Convention:
    """Makes the convention of `from_diffusers`, or the score's of the VE scheduler."""
    if config.get("_class_name") != VE:
        return from_diffusers(config)
    given = {name: value for name, value in config.items() if name[:1] != "_"}
    for name in given:
        check_name(f"entry of {VE}", name, VE_ENTRIES)
    settings = VE_ENTRIES | given
    schedule = schedules.VE(settings["sigma_min"], settings["sigma_max"])
    return Convention(schedule, "score", NoiseClock(schedule, "sigma"), UNSCALED)


def _unet2d(config: Mapping[str, Any]) -> Any:
    from diffusionflow.networks.pretrained import UNet2D

    return UNet2D(**entries_of(UNet2D, config, ELSEWHERE))


def _dit(config: Mapping[str, Any]) -> Any:
    from diffusionflow.networks.pretrained import DiTTransformer2D

    entries = {name: value for name, value in config.items() if value is not None}
    if config["_class_name"] == "Transformer2DModel":  # of files before 2024
        entries = {
            name: value
            for name, value in entries.items()
            if TEXT_OPTIONS.get(name, ...) != value
        }
    return DiTTransformer2D(**entries_of(DiTTransformer2D, entries, ()))


# entries of Transformer2DModel that are about text or discrete images, each with the
# value of a DiT
TEXT_OPTIONS = dict(
    double_self_attention=False,
    only_cross_attention=False,
    use_linear_projection=False,
)

ARCHITECTURES: dict[str, Callable[[Mapping[str, Any]], Any]] = {
    "UNet2DModel": _unet2d,
    "DiTTransformer2DModel": _dit,
    "Transformer2DModel": _dit,
}
