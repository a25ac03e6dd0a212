"""Samplers by their names in other libraries: `--sampler.name="DPM++ 2M Karras"`."""

import re
from collections.abc import Mapping
from typing import Any

from diffusionflow import samplers
from experiments.config import external, grid_files, registry
from experiments.runtime.errors import UsageError, shown

GRID = "by_name"  # the value of `sampler.grid` for the grid of such a name


def named(text: str) -> samplers.Named | None:
    """Finds the sampler and grid of a sampler's name in another library.

    Returns:
      None for names of the registry, in any case, for users' own, and for what no
      library calls a sampler: their errors are those of call strings.

    Raises:
      UsageError: the method or its grid is known and not shipped.
    """
    text = text.strip()
    is_call = re.fullmatch(r"\w+\s*\(.*\)", text, re.DOTALL)
    if external.references(text) or is_call or text.lower() in registry.SAMPLERS:
        return None
    try:
        return samplers.by_name(text)
    except ValueError as error:
        if "not shipped" in str(error):
            raise UsageError(f"sampler.name: {error}") from None
        return None


def completed(own: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the section `sampler` of a config with the entries that are given.

    A name of another library that is given without a grid brings its own, and the file
    of a grid that is given its sampler and number of steps. The file of the config
    brings neither: the config has them.
    """
    section = {**own, **given}
    if grid_files.is_file(given.get("grid", "")):
        grid_files.complete(section, given)
    elif "name" in given and "grid" not in given and named(given["name"]) is not None:
        section["grid"] = GRID
    elif grid_files.is_file(section.get("grid", "")):
        section["grid"] = grid_files.with_digest(section["grid"])
    return section


def grid_fn(section: Mapping[str, Any]) -> samplers.names.GridFn | None:
    """Returns the grid that belongs to the sampler's name if asked for, else None.

    Raises:
      UsageError: the name is none of another library, or has a grid behind it and the
        section another.
    """
    name, grid = section["name"], section["grid"]
    found = named(name)
    if grid == GRID:
        if found is None:
            raise UsageError(
                f"sampler.grid={GRID}: sampler.name={shown(name)} is no name of "
                "another library, such as 'DPM++ 2M'; write a grid, such as uniform"
            )
        return found.grid_fn
    if found is not None and samplers.names.with_grid(name):
        raise UsageError(
            f"sampler.grid={shown(grid)}: sampler.name={shown(name)} names a grid too; "
            f"write sampler.grid={GRID}, or leave it out of the name"
        )
    return None
