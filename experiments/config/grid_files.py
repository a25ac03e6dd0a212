"""Files of optimised grids: `--sampler.grid=FILE.json`, as `diffusionflow grid` writes.

The text that a request and the config of a run keep is `FILE.json#DIGEST`, so that
samples on a grid that has changed are not taken for those of the file. A run has a copy
of the file of its config in `WORKDIR/grids/DIGEST`, which is read in place of the file.
"""

import glob
import hashlib
import pathlib
import re
import shutil
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from diffusionflow import grids
from diffusionflow.schedules import Schedule
from experiments.runtime import files
from experiments.runtime.errors import UsageError, shown

FORMAT = 1
FOLDER = "grids"  # of a run
PATTERN = re.compile(r"(?P<path>.+\.json)(#(?P<digest>[0-9a-f]{8}))?")


class GridFile(NamedTuple):
    """What a file says.

    Fields:
      text: path and digest.
      times: float64, falling.
      sampler: the grid is for, as in a config.
      num_steps: steps to the data, that from a grid that ends above sigma = 0 included.
      schedule: `repr` of the one that the times are of.
    """

    text: str
    times: np.ndarray
    sampler: str
    num_steps: int
    schedule: str


def is_file(text: str) -> bool:
    """Returns whether the value of `sampler.grid` names a file."""
    return PATTERN.fullmatch(text.strip()) is not None


def read(text: str) -> GridFile:
    """Reads a file of an optimised grid.

    Args:
      text: its path, with or without the digest.

    Raises:
      UsageError: there is no such file, it is none of these, or it has changed.
    """
    match = PATTERN.fullmatch(text.strip())
    path = pathlib.Path(match["path"])
    where = f"sampler.grid={shown(str(path))}"
    way = "give a file of diffusionflow grid"
    if not path.is_file():
        raise UsageError(f"{where}: there is no such file; {way}, or another grid")
    try:
        content = files.read_json(path)
        if content["format"] != FORMAT:
            raise ValueError(f"format {content['format']!r}: must be {FORMAT}")
        times = grids.check_grid(np.asarray(content["times"], np.float64))
        facts = str(content["sampler"]), int(content["num_steps"])
        schedule = str(content["schedule"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{where}: is no sampling grid ({error!r}); {way}") from error
    digest = hashlib.sha256(times.tobytes()).hexdigest()[:8]
    if match["digest"] not in (None, digest):
        raise UsageError(
            f"{where}: has changed from {match['digest']} to {digest}: put the file "
            "back, or leave out the digest behind its name"
        )
    return GridFile(f"{path}#{digest}", times, *facts, schedule)


def recorded(section: Mapping[str, Any]) -> dict[str, Any]:
    """Makes the section `sampler` for results: a grid's file by its stem and digest.

    Where the file is, is no part of what samples depend on.
    """
    match = PATTERN.fullmatch(section["grid"].strip())
    if match is None:
        return dict(section)
    stem = pathlib.Path(match["path"]).stem
    digest = match["digest"] or read(section["grid"]).text[-8:]
    return {**section, "grid": f"{stem}#{digest}"}


def with_digest(text: str) -> str:
    """Adds its digest to the path of a file; reads the file where it has none."""
    return text if PATTERN.fullmatch(text.strip())["digest"] else read(text).text


def located(text: str, workdir: str | pathlib.Path) -> str:
    """Replaces the path of a grid's file by that of the copy that a run keeps.

    Args:
      text: `sampler.grid` of the run's config. Without a digest it stands for the copy
        only where the file is gone, and there is one copy of this name.
      workdir: of the run.

    Returns:
      The text as it is where it names no file, or the run has no copy.
    """
    match = PATTERN.fullmatch(text.strip())
    if match is None or (match["digest"] is None and pathlib.Path(match[1]).is_file()):
        return text
    folder = match["digest"] or "[0-9a-f]" * 8
    name = glob.escape(pathlib.Path(match["path"]).name)
    copies = list((pathlib.Path(workdir) / FOLDER).glob(f"{folder}/{name}"))
    return f"{copies[0]}#{copies[0].parent.name}" if len(copies) == 1 else text


def settle(section: ConfigDict, workdir: str | pathlib.Path | None) -> None:
    """Sets path and digest of the file of a grid, where a config names one.

    Args:
      section: `sampler` of the config; changed in place.
      workdir: of the run, where `located` looks for a copy; None for none.
    """
    if is_file(section["grid"]):
        text = section["grid"]
        text = text if workdir is None else located(text, workdir)
        section["grid"] = with_digest(text)


def keep_copy(text: str, workdir: str | pathlib.Path) -> None:
    """Copies the file that `sampler.grid` of a run's config names, if any.

    Args:
      text: of the config.
      workdir: of the run; the copy is `workdir/grids/DIGEST/FILE.json`.
    """
    if not is_file(text):
        return
    match = PATTERN.fullmatch(read(text).text)
    path = pathlib.Path(match["path"])
    copy = pathlib.Path(workdir) / FOLDER / match["digest"] / path.name
    if not copy.exists():
        copy.parent.mkdir(parents=True, exist_ok=True)
        with files.atomic_write(copy) as temporary:
            shutil.copyfile(path, temporary)


def complete(section: dict[str, Any], given: Mapping[str, Any]) -> None:
    """Sets what a file says and is not given: sampler and number of steps.

    Args:
      section: of the sampler; changed in place.
      given: entries that the user wrote.
    """
    found = read(section["grid"])
    said = {"name": found.sampler, "num_steps": len(found.times) - 1}
    section |= {"grid": found.text}
    section |= {name: said[name] for name in said if name not in given}


def times(section: Mapping[str, Any], schedule: Schedule) -> np.ndarray:
    """Reads the sampling times of the file that a config's section `sampler` names.

    Raises:
      UsageError: from `read`; the file is of another number of steps or schedule.
    """
    found, count = read(section["grid"]), section["num_steps"]
    steps = len(found.times) - 1
    if count not in (steps, found.num_steps):
        raise UsageError(
            f"sampler.num_steps={count}: must be {steps}, as in sampler.grid="
            f"{found.text}; or compute a grid of {count} steps by diffusionflow grid"
        )
    if found.schedule != repr(schedule):
        raise UsageError(
            f"sampler.grid={found.text}: has times of {shown(found.schedule)}, and the "
            f"schedule here is {shown(repr(schedule))}: must be the same; compute a "
            "grid of this run by diffusionflow grid"
        )
    return found.times
