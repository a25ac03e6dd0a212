"""The networks of NVIDIA's EDM, from their state dicts."""

import dataclasses
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from diffusionflow import schedules
from diffusionflow._dataclass import check_name
from diffusionflow.interop.convention import Convention
from diffusionflow.interop.edm import from_edm, iddpm_levels
from diffusionflow.interop.hub import local_path
from diffusionflow.interop.parameters import as_parameter
from diffusionflow.interop.pretrained import Pretrained, assembled
from diffusionflow.interop.weights import read_json, read_weights
from diffusionflow.schedules import Schedule

PRECONDITIONINGS = {
    "EDMPrecond": "edm",
    "VPPrecond": "vp",
    "VEPrecond": "ve",
    "iDDPMPrecond": "iddpm",
}
OPTIONS = "training_options.json"  # that EDM's training writes
PREFIX = "model."  # of a network in its preconditioning
FIRST, LEVELS = "map_layer0.weight", "u"  # of every network; of iDDPM's alone
LEVEL = re.compile(r"enc\.(\d+)x\1_(conv|block(\d+))\.")


def load_edm(
    path: str | pathlib.Path,
    *,
    output: str | None = None,
    sigma_data: float | None = None,
    schedule: Schedule | None = None,
) -> Pretrained:
    """Opens a network of NVIDIA's EDM: DDPM++, NCSN++ or ADM, and its preconditioning.

    Its sizes follow from the names and shapes of its arrays. The files that NVIDIA
    publishes are pickles, which are not opened; save `net.state_dict()` there.

    Args:
      path: a state dict of a network with its preconditioning, or of its `.model`, in
        a file that `read_weights` reads.
      output: "edm", "vp", "ve" or "iddpm", the preconditioning (EDMPrecond, ...), as
        in `from_edm`. None for that of `training_options.json` in the same folder, or
        for "iddpm", whose file has a table of levels.
      sigma_data: of "edm". None for that of `training_options.json`, or else 0.5.
      schedule: the one to call the network on; None for its own: `schedules.EDM()`,
        `LinearBeta(0.1, 20)` of "vp", `VE(0.02, 100)` of "ve", and for "iddpm" the
        chain of its levels.

    Returns:
      `Pretrained`; labels are 0..label_dim - 1 and the null label is label_dim, a
      vector of zeros, which networks trained without dropping labels never saw.

    Raises:
      ValueError: the file cannot be read or is none of such a network, its
        preconditioning is not known, or the options state another one or another
        `sigma_data`.

    Source: Karras et al. 2022, arXiv 2206.00364, table 1.
    """
    if output is not None:
        check_name("output", output, PRECONDITIONINGS.values())
    path = local_path(path)
    state = read_weights(path, put=as_parameter)
    found = stated_output(path, state)
    levels = state.pop(LEVELS, None)
    output = _preconditioning(path, output, found)
    stated = stated_sigma_data(path) if output == "edm" else None
    if None not in (sigma_data, stated) and sigma_data != stated:
        raise ValueError(
            f"sigma_data={sigma_data}: {OPTIONS} of the file has {stated}; leave it out"
        )
    sigma_data = next(each for each in (sigma_data, stated, 0.5) if each is not None)
    convention = _convention(output, sigma_data, schedule, levels)
    module, state = network_of_edm(state)
    names = [each.name for each in dataclasses.fields(module)]
    config = {
        name: getattr(module, name) for name in names if name not in ("parent", "name")
    }
    config["sample_size"] = config["img_resolution"]
    return assembled(module, state, convention, config, f"a {type(module).__name__}")


def is_of_edm(state: Mapping[str, Any]) -> bool:
    """Returns whether a state dict has the names of a network of EDM."""
    return any(name.removeprefix(PREFIX) == FIRST for name in state)


def network_of_edm(state: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Returns the network of a state dict of EDM, and the arrays of its parameters.

    Args:
      state: `{name: array}`, of a network with its preconditioning or of its `.model`.

    Returns:
      `networks.pretrained.SongUNet` or `DhariwalUNet`, and the arrays under its names,
      without the filters of the resampling.

    Raises:
      ValueError: they are none of such a network.
    """
    from diffusionflow.networks import pretrained

    state = {name.removeprefix(PREFIX): state[name] for name in state if name != LEVELS}
    name = "DhariwalUNet" if "out_norm.weight" in state else "SongUNet"
    return getattr(pretrained, name)(**_config(state)), state


def stated_output(path: pathlib.Path, state: Mapping[str, Any]) -> str | None:
    """Reads the preconditioning that a training's options name, or a table of levels.

    Args:
      path: of the file, in whose folder `training_options.json` may be.
      state: the arrays of the file.

    Returns:
      "edm", "vp", "ve" or "iddpm", as in `from_edm`; None where nothing says it.
    """
    found = "iddpm" if LEVELS in state else None
    named = str(_network_options(path).get("class_name", ""))
    return PRECONDITIONINGS.get(named.rpartition(".")[2], found)


def stated_sigma_data(path: pathlib.Path) -> float | None:
    """Returns the standard deviation of the data that the options of a training name.

    Args:
      path: of the file, in whose folder `training_options.json` may be.

    Raises:
      ValueError: it is not a positive number.
    """
    value = _network_options(path).get("sigma_data")
    if value is None:
        return None
    if type(value) not in (int, float) or not 0 < value < np.inf:
        raise ValueError(f"{OPTIONS}: sigma_data={value!r}: must be a positive number")
    return float(value)


def _network_options(path: pathlib.Path) -> dict[str, Any]:
    """Reads the arguments of the network from the options of a training, if any."""
    place = path.parent / OPTIONS
    options = read_json(place).get("network_kwargs") if place.is_file() else None
    return options if isinstance(options, dict) else {}


def _preconditioning(path: pathlib.Path, output: str | None, found: str | None) -> str:
    """Chooses the preconditioning of the argument, or the one that the file states."""
    if output is None and found is None:
        raise ValueError(
            f"{path.name} does not say its preconditioning: give output='edm' for "
            "EDMPrecond, 'vp' for VPPrecond, 've' for VEPrecond"
        )
    if output is not None and found is not None and output != found:
        raise ValueError(f"output={output!r}: the file is of {found!r}")
    return output or str(found)


def _convention(
    output: str, sigma_data: float, schedule: Schedule | None, levels: Any
) -> Convention:
    own: dict[str, Any] = dict(
        edm=schedules.EDM, vp=schedules.LinearBeta, ve=lambda: schedules.VE(0.02, 100.0)
    )
    if output != "iddpm":
        schedule = own[output]() if schedule is None else schedule
        return from_edm(output, sigma_data=sigma_data, schedule=schedule)
    if levels is None:
        raise ValueError("output='iddpm': the file has no table of levels, 'u'")
    if np.ndim(levels) != 1 or len(levels) < 2:
        raise ValueError(f"u {np.shape(levels)}: must be a table of two levels or more")
    count = len(levels) - 1
    exact = iddpm_levels(count)
    if not np.allclose(levels, exact, rtol=1e-3, atol=1e-4):
        raise ValueError(
            f"u: not the levels of improved DDPM with C_1=0.001, C_2=0.008, M={count}; "
            "others are not supported"
        )
    if schedule is None:  # level i of the chain is entry M - 1 - i of the table
        squares = exact[count - 1 :: -1] ** 2
        schedule = schedules.Discrete(1 / (1 + squares), squares / (1 + squares))
    return from_edm("iddpm", schedule=schedule, num_levels=count)


def _config(state: dict[str, Any]) -> dict[str, Any]:
    """Reads the network's settings from names and shapes; takes the filters out."""
    needed = ("map_layer0.weight", "map_layer1.weight")
    missing = [name for name in needed if name not in state]
    places = [match for match in map(LEVEL.match, state) if match]
    sides = sorted({int(match[1]) for match in places}, reverse=True)
    if missing or not any(match[3] for match in places):
        names = ", ".join([*missing, "enc.*_block0"][:2])
        raise ValueError(f"no state dict of a network of EDM; missing: {names}")
    shape = lambda name, rank=4: _shape(state, name, rank)
    columns = lambda name: shape(name, 2)[1] if name in state else 0
    width, noise = shape("map_layer0.weight", 2)
    first = f"enc.{sides[0]}x{sides[0]}"
    channels = [shape(f"enc.{side}x{side}_block0.conv0.weight")[0] for side in sides]
    song = "out_norm.weight" not in state
    base = shape(f"{first}_conv.weight")[0] if song else noise
    last = f"dec.{sides[0]}x{sides[0]}_aux_conv.weight" if song else "out_conv.weight"
    config = dict(
        img_resolution=sides[0],
        in_channels=shape(f"{first}_conv.weight")[1],
        out_channels=shape(last)[0],
        label_dim=columns("map_label.weight"),
        augment_dim=columns("map_augment.weight"),
        model_channels=base,
        channel_mult=tuple(count // base for count in channels),
        channel_mult_emb=width // base,
        num_blocks=1 + max(int(match[3]) for match in places if match[3]),
        attn_resolutions=tuple(
            side for side in sides if f"enc.{side}x{side}_block0.qkv.weight" in state
        ),
    )
    taps = _filter(state, len(sides) > 1)
    if not song and taps != (1.0, 1.0):
        raise ValueError(f"resample_filter={taps}: must be (1, 1) in a DhariwalUNet")
    return dict(config, **_song(state, taps, noise // base)) if song else config


def _shape(state: Mapping[str, Any], name: str, rank: int) -> tuple[int, ...]:
    """Reads the shape of an array that must be there, with so many axes."""
    if name not in state:
        raise ValueError(f"no state dict of a network of EDM; missing: {name}")
    shape = tuple(state[name].shape)
    if len(shape) != rank or 0 in shape:
        raise ValueError(f"{name} {shape}: must have {rank} axes, none of length 0")
    return shape


def _song(state: Mapping[str, Any], taps: Any, noise: int) -> dict[str, Any]:
    """Reads the fields that SongUNet alone has."""
    has = lambda part: sum(f"_aux_{part}.weight" in name for name in state)
    encoder = "skip" if has("skip") else "residual" if has("residual") else "standard"
    return dict(
        embedding_type="fourier" if "map_noise.freqs" in state else "positional",
        channel_mult_noise=noise,
        encoder_type=encoder,
        decoder_type="skip" if has("norm") > 1 else "standard",
        resample_filter=taps,
    )


def _filter(state: dict[str, Any], resamples: bool) -> tuple[float, ...]:
    """Takes out the taps along an axis of the filter that every resampling has."""
    names = [name for name in state if name.endswith("resample_filter")]
    squares = [np.asarray(state.pop(name), np.float64) for name in names]
    if not squares:
        if resamples:
            raise ValueError(
                "no resample_filter in the file: save the whole state dict, "
                "net.state_dict(), which has it"
            )
        return 1.0, 1.0
    sides = squares[0].shape[-2:]
    if len(sides) < 2 or squares[0].size != sides[0] ** 2 or not squares[0].size:
        shape = squares[0].shape
        raise ValueError(f"resample_filter {shape}: must be [1, 1, side, side]")
    first = squares[0].reshape(sides)
    line = first.sum(0)
    separable = (line > 0).all() and np.allclose(first, np.outer(line, line))
    same = all(np.array_equal(each.ravel(), first.ravel()) for each in squares)
    if not (separable and same):
        raise ValueError("resample_filter: must be one separable filter in all blocks")
    return tuple((line / line.min()).tolist())
