"""Lists, checks, quarantines and removes the checkpoint directories of a run.

There is a directory for each step; it is intact if it matches its checksum manifest.
Corrupted ones are renamed; removed are only intact ones that are superseded and hold no
foreign file, and unfinished ones. Anything else, links included, is left alone.
"""

import errno
import os
import pathlib
import re
import shutil
import sys
import time
from collections.abc import Mapping
from typing import Any

from experiments.checkpointing import integrity, retention
from experiments.runtime import files
from experiments.runtime.errors import UsageError

SUFFIX = ".orbax-checkpoint-tmp"  # Orbax takes no directory with it for a step
_UNFINISHED = re.compile(r"\d+([.](unchecked|removed))?([.]orbax-checkpoint-tmp)+")


def temporary(name: str, state: str) -> str:
    """Returns the name of a step's directory while "unchecked" or being "removed"."""
    return f"{name}.{state}{SUFFIX}"


def steps(directory: pathlib.Path) -> list[int]:
    """Lists the steps that have a directory, rising."""
    paths = (path for path in directory.iterdir() if path.is_dir())
    return sorted(int(path.name) for path in paths if path.name.isdecimal())


def check_names(directory: pathlib.Path) -> None:
    """Refuses what is no directory and has the name that a step is saved under.

    A save would remove it, or fail.

    Raises:
      UsageError: there is such a file, pipe or dangling link.
    """
    if not directory.is_dir():
        return
    for path in sorted(directory.iterdir()):
        named = path.name.isdecimal() or _UNFINISHED.fullmatch(path.name)
        if named and not path.is_dir():
            raise UsageError(
                f"{path} is no directory, and checkpoints are saved under such names: "
                "move it away, then the same command goes on"
            )


def newest(directory: pathlib.Path, *, rename: bool) -> int | None:
    """Returns the newest step that is intact; None if there is no step at all.

    A warning on standard error names each newer one that is corrupted, and why.

    Args:
      directory: of the checkpoints.
      rename: whether corrupted ones are quarantined as `corrupted-STEP`, or only
        skipped.

    Raises:
      UsageError: there are steps, but none is intact; then nothing is renamed.
    """
    listed = steps(directory)
    corrupted: dict[pathlib.Path, str] = {}
    for step in reversed(listed):
        path = directory / str(step)
        fault = integrity.find_corruption(path)
        if fault is None:
            for bad, why in corrupted.items():
                what = f"quarantined as {_quarantine(bad)}" if rename else "skipped"
                _warn(
                    f"{bad} is corrupted: {why}; it was {what}, and step {step} is used"
                )
            return step
        if path.is_dir():
            corrupted[path] = fault
    if steps(directory) != listed:  # another run saved meanwhile
        return newest(directory, rename=rename)
    if not corrupted:
        return None
    listed_faults = "; ".join(
        f"step {path.name}: {corrupted[path]}" for path in corrupted
    )
    raise UsageError(
        f"no checkpoint in {directory} is intact ({listed_faults}); nothing was "
        "changed: restore one from a backup, or choose another --workdir"
    )


def check(directory: pathlib.Path, step: int) -> None:
    """Raises a `UsageError` if the checkpoint of `step` is not intact."""
    fault = integrity.find_corruption(directory / str(step))
    if fault is not None:
        raise UsageError(
            f"checkpoint {directory / str(step)} is corrupted: {fault}; choose another "
            f"--step of {steps(directory)}"
        )


def retain(
    directory: pathlib.Path,
    keep: retention.Keep,
    later: Mapping[int, Mapping[str, Any]],
) -> None:
    """Removes the checkpoints that need not be kept.

    Links are not removed, nor directories with files that their manifest does not list.
    Before any removal all are checked against their manifests, so that the remaining
    ones are intact; corrupted ones are quarantined, with a warning.

    Args:
      directory: of the checkpoints.
      keep: what must stay.
      later: numbers by which steps are ranked, where they were known only after the
        step was saved; in addition to those that were saved with it.
    """
    candidates = {
        step: _scores(directory / str(step)) for step in _own_steps(directory)
    }
    candidates = {
        step: {**scores, **later.get(step, {})} for step, scores in candidates.items()
    }
    if not retention.removable(candidates, keep):
        return
    for step in list(candidates):
        path = directory / str(step)
        fault = integrity.find_corruption(path)
        if fault is not None:
            new = _quarantine(path)
            _warn(f"{path} is corrupted: {fault}; it was quarantined as {new}")
            del candidates[step]
    for step in retention.removable(candidates, keep):
        removed = directory / temporary(str(step), "removed")
        (directory / str(step)).rename(removed)  # a reader sees all of it or nothing
        shutil.rmtree(removed)


def _own_steps(directory: pathlib.Path) -> list[int]:
    """Lists the steps whose directories hold exactly what their manifest lists."""
    paths = {step: directory / str(step) for step in steps(directory)}
    return [
        step
        for step, path in paths.items()
        if not path.is_symlink() and integrity.has_only_listed_files(path)
    ]


def _scores(path: pathlib.Path) -> dict[str, Any]:
    """Reads what a step is ranked by; nothing where that cannot be read."""
    try:
        return dict(files.read_json(path / "scores" / "metadata"))
    except integrity.UNREADABLE:
        return {}


def _warn(text: str) -> None:
    print(f"warning: checkpoint {text}", file=sys.stderr, flush=True)


def sweep(directory: pathlib.Path) -> None:
    """Removes directories that a killed process left half written or half removed."""
    for path in directory.iterdir():
        unfinished = _UNFINISHED.fullmatch(path.name)
        if unfinished and path.is_dir() and not path.is_symlink():
            _remove(path)


def _remove(path: pathlib.Path) -> None:
    """Removes a directory that threads of a failed save may still be writing to."""
    for attempt in range(10):
        try:
            return shutil.rmtree(path)
        except OSError as error:
            if error.errno != errno.ENOTEMPTY or attempt == 9:
                raise
            time.sleep(0.1)


def _quarantine(path: pathlib.Path) -> str:
    """Renames a corrupted directory; returns the new name."""
    target, number = path.with_name(f"corrupted-{path.name}"), 1
    while os.path.lexists(target):
        number += 1
        target = path.with_name(f"corrupted-{path.name}-{number}")
    path.rename(target)
    return target.name
