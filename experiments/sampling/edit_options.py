"""The options of `sample` that make something of pictures or of two seeds.

They are checked by themselves, before a run or a picture is opened.
"""

import math
import os
import re
from collections.abc import Mapping
from typing import Any

from absl import flags

from experiments.runtime.errors import UsageError, require
from experiments.runtime.finite_flags import define_number

STRENGTH = 0.75  # of the steps that change a picture, where nothing else is said
COLUMNS = 10
LARGEST_COLUMNS = 1_000
LARGEST_SEED = 2**32 - 1
# option: those that it goes with
TOGETHER = {
    "init_image": {"strength", "mask", "invert"},
    "strength": {"init_image", "mask"},
    "mask": {"init_image", "strength"},
    "invert": {"init_image"},
    "interpolate": {"columns"},
    "columns": {"interpolate"},
}
# option: the one that it cannot do without
NEEDED = {
    "strength": "init_image",
    "mask": "init_image",
    "invert": "init_image",
    "columns": "interpolate",
}


def define_flags() -> None:
    """Defines the flags of the options."""
    flags.DEFINE_string(
        "init_image",
        None,
        "Pictures that samples begin from, in turn: an image, a folder of images, or "
        "an .npy or .npz of any events, such as one that this command wrote.",
    )
    define_number(
        "strength",
        None,
        "Share of the steps that change --init_image, in [0, 1]: 0 leaves it, 1 "
        f"samples without it; by default {STRENGTH}, with --mask 1.",
    )
    flags.DEFINE_string(
        "mask",
        None,
        "Inpainting: an image of the samples' size, white where --init_image is known "
        "and kept, black where it is filled; or an .npy or .npz of 1 and 0.",
    )
    flags.DEFINE_bool(
        "invert",
        False,
        "Takes --init_image to the noise that it is sampled from, and back; one sample "
        "a picture, by a deterministic sampler.",
    )
    flags.DEFINE_string(
        "interpolate",
        None,
        "Two seeds, or two pictures or folders as for --init_image, such as 3,7 or "
        "one.png,other.png: samples between them, spherically between their noises.",
    )
    flags.DEFINE_integer(
        "columns",
        None,
        f"Samples in a row of --interpolate; by default {COLUMNS}.",
        lower_bound=2,
        upper_bound=LARGEST_COLUMNS,
    )


def given(values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the options that are given, checked.

    Args:
      values: of flags, by name; None or False for those that are not given.

    Raises:
      UsageError: a value is out of bounds, two options exclude each other, or there is
        no such file.
    """
    found = {
        name: values[name]
        for name in TOGETHER
        if values.get(name) is not None and values[name] is not False
    }
    for name in found:
        others = [other for other in found if other not in {name, *TOGETHER[name]}]
        if others:
            raise UsageError(f"--{name} does not go with --{others[0]}: leave one out")
        if name in NEEDED and NEEDED[name] not in found:
            raise UsageError(f"--{name} needs --{NEEDED[name]}: see --help")
    if "strength" in found:
        strength = found["strength"]
        inside = math.isfinite(strength) and 0 <= strength <= 1
        bound = "in [0, 1]: 0 leaves the picture, 1 samples without it"
        require("strength", strength, inside, bound)
    if "columns" in found:
        columns, bound = found["columns"], f"in 2..{LARGEST_COLUMNS}"
        require("columns", columns, 2 <= columns <= LARGEST_COLUMNS, bound)
    for name in ("init_image", "mask"):
        if name in found:
            check_exists(name, found[name])
    if "interpolate" in found:
        ends(found["interpolate"])
    return found


def check_exists(name: str, path: str) -> None:
    """Raises a `UsageError` unless there is something at a path."""
    if not os.path.exists(path):
        link = "a link to nothing" if os.path.islink(path) else "no such file or folder"
        raise UsageError(f"{name}={path!r}: {link}")


def ends(text: str) -> tuple[int, int] | tuple[str, str]:
    """Reads what `--interpolate` goes from and to: two seeds, or two paths.

    Raises:
      UsageError: it is neither.
    """
    parts = text.split(",")
    if len(parts) != 2:
        raise UsageError(
            f"interpolate={text!r}: must be two seeds or two paths, such as 3,7 or "
            "one.png,other.png"
        )
    if all(re.fullmatch("[0-9]{1,18}", part) for part in parts):
        first, last = map(int, parts)
        inside = max(first, last) <= LARGEST_SEED and first != last
        bound = f"two different seeds in 0..{LARGEST_SEED}"
        require("interpolate", text, inside, bound)
        return first, last
    for part in parts:
        check_exists("interpolate", part)
    return parts[0], parts[1]
