"""The file of an FID: where it goes, what it depends on, and what is said of it."""

import pathlib
from collections.abc import Mapping
from typing import Any

from experiments.evaluation.fid_inputs import PROTOCOLS
from experiments.runtime import files
from experiments.runtime.errors import UsageError, require
from experiments.sampling import shards

NAMES = {  # entries of a result
    *("protocol", "value", "comparable", "reasons", "compares_with", "count"),
    *("reference", "recipe", "settings"),
}


def checked_path(out: str | None, default: pathlib.Path) -> pathlib.Path:
    """Checks the path of the result, which must be in a folder that exists.

    Args:
      out: `--out`, or None.
      default: path without it.

    Raises:
      UsageError: it cannot be written there.
    """
    if out is None:
        return default
    path = pathlib.Path(out)
    require("out", out, path.suffix == ".json", "a path that ends in .json")
    require("out", out, not path.is_dir(), "the path of a file, not a folder")
    require("out", out, path.parent.is_dir(), "in a folder that exists; make it first")
    return path


def finished(path: pathlib.Path, asked: Mapping[str, Any]) -> dict[str, Any] | None:
    """Reads the result of these settings if it is there already, else returns None.

    Raises:
      UsageError: there is a file that is another result, or none.
    """
    if not path.exists():
        return None
    try:
        there = files.read_json(path)
    except ValueError:
        there = None
    known = isinstance(there, dict) and there.keys() >= NAMES
    if not known or not isinstance(there["settings"], dict):
        raise UsageError(
            f"{path} was not written by evaluate --protocol: choose another --out, or "
            "move it away"
        )
    shards.check_same(path, there["settings"], asked)
    return there


def make(
    asked: Mapping[str, Any], recipe: str, value: float, reference: str, reasons: list
) -> dict[str, Any]:
    """Makes the result: the FID and what it depends on, as plain JSON values.

    Args:
      asked: what the number depends on, as plain JSON values.
      recipe: how samples were made, on one line.
      value: the FID.
      reference: what they are compared with, in words.
      reasons: why the number does not compare.
    """
    return {
        "protocol": asked["protocol"],
        "value": value,
        "comparable": not reasons,
        "reasons": reasons,
        "compares_with": PROTOCOLS[asked["protocol"]].words,
        "count": asked["num_samples"],
        "reference": reference,
        "recipe": recipe,
        "settings": dict(asked),
    }


def words(result: Mapping[str, Any]) -> str:
    """Formats the FID on one line, and whether it is comparable on another."""
    line = f"{result['protocol']}: {result['value']:.4f}, {result['count']:,} samples"
    line += f" ({result['recipe']}), {result['reference']}"
    if result["comparable"]:
        return f"{line}\ncomparable with {result['compares_with']}"
    return f"{line}\nnot comparable: {'; '.join(result['reasons'])}"
