"""Warns where the file of an optimised grid is for another sampler."""

import sys
from collections.abc import Mapping
from typing import Any

from experiments.config import build, grid_files
from experiments.runtime.errors import UsageError


def warn_of_other_sampler(section: Mapping[str, Any]) -> None:
    """Prints a warning where the file of a grid is for another sampler.

    Args:
      section: `sampler`, complete.
    """
    if not grid_files.is_file(section["grid"]):
        return
    other = grid_files.read(section["grid"]).sampler
    if section["name"] != other and not _same_sampler(section["name"], other):
        print(
            f"warning: {grid_files.recorded(section)['grid']} is the grid of {other}, "
            f"and not of {section['name']}",
            file=sys.stderr,
            flush=True,
        )


def _same_sampler(one: str, other: str) -> bool:
    """Returns whether two names give samplers of the same class and numbers."""
    try:
        built = [repr(build.sampler({"name": name})) for name in (one, other)]
    except UsageError:  # of a module that is not here
        return False
    return built[0] == built[1]
