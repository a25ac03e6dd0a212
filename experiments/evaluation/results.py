"""Writes and reads the files of an evaluation: `eval.json` with `eval.npz`, and CSV.

The arrays are what a comparison reads: `bound` and `ode` of each example in the unit
of `eval.json`; `eps_mse_raw` and `eps_mse_ema` of each example and level, NaN where the
schedule does not reach; and `samples_0`, `samples_1`, ...: the resamples of the metrics
of each sampler, `[metrics, num_resamples]`, in the order of `eval.json`. The table is
`results.csv`. Of data with a mask there are the `eps_mse` arrays alone.
"""

import csv
import hashlib
import io
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.runtime import files
from experiments.runtime.errors import UsageError
from experiments.sampling import shards

FORMAT = 5
ENTRIES = (  # that are read of a result
    *("settings", "identity", "left_out", "likelihood"),
    *("held_out_baseline", "samples", "arrays"),
)
DESCRIBED = ("file", "sha256")  # of the arrays

Arrays = dict[str, np.ndarray]


class NewerError(UsageError):
    """Raised if a newer version wrote the result."""


def write(
    path: pathlib.Path, values: Mapping[str, Any], arrays: Mapping[str, np.ndarray]
) -> None:
    """Writes the arrays, and then the JSON values with their digest.

    Args:
      path: of the `eval.json`; killed at any moment, it is complete or absent.
      values: plain JSON values.
      arrays: by name.
    """
    arrays_path = path.with_suffix(".npz")
    with files.atomic_write(arrays_path) as temporary:
        with temporary.open("wb") as file:
            np.savez(file, **dict[str, Any](arrays))
        digest = hashlib.sha256(temporary.read_bytes()).hexdigest()
    described = {"file": arrays_path.name, "sha256": digest}
    content = {"format": FORMAT, **values, "arrays": described}
    with files.atomic_write(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n")


COLUMNS = (
    "run",
    "quantity",
    "features",
    "sampler",
    "nfe",
    "value",
    "standard_error",
    "low",
    "high",
)


def write_csv(path: pathlib.Path, rows: Sequence[Mapping[str, Any]]) -> pathlib.Path:
    """Writes every number with its error as a table, for other programs.

    Args:
      path: of the `eval.json`; the table is `results.csv` next to it, or has its name.
      rows: values of `COLUMNS`; what is missing is left empty.

    Returns:
      The path of the table.
    """
    table = path.with_name("results.csv")
    if path.name != "eval.json":
        table = path.with_suffix(".csv")
    with (
        files.atomic_write(table) as temporary,
        temporary.open("w", newline="") as file,
    ):
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    return table


def exists(path: pathlib.Path, settings: Mapping[str, Any]) -> bool:
    """Returns whether the result exists; refuses one of other settings.

    One of an older format is computed again, as is one whose arrays are missing; cached
    partial results are used.

    Raises:
      UsageError: it is that of other settings or weights, of a newer format, or no
        evaluation, or another file is where its arrays would be.
    """
    if not path.exists():
        _check_free(path.with_suffix(".npz"))
        return False
    values = _values(path)
    if (there := values.get("format", 0)) > FORMAT:
        raise _newer(path, there)
    _check_weights(path, values["settings"], settings)
    shards.check_same(path, values["settings"], settings)
    try:
        read(path)
    except UsageError as error:
        print(f"evaluating again: {error}", flush=True)
        return False
    return True


def _check_weights(
    path: pathlib.Path, there: Mapping[str, Any], here: Mapping[str, Any]
) -> None:
    """Refuses a result of different weights of the same name and step."""
    same = all(there.get(name) == here.get(name) for name in ("weights", "step"))
    if same and there.get("parameters") != here.get("parameters"):
        raise UsageError(
            f"{path} is of other {here['weights']} weights of step {here['step']:,}: "
            "the run was trained again since; move it away, or choose another --out"
        )


def _check_free(arrays_path: pathlib.Path) -> None:
    """Refuses to overwrite a file that no evaluation has written."""
    if not arrays_path.exists():
        return
    try:
        is_evaluation = bool(
            {"bound", "ode", "eps_mse_raw", "samples_0"}
            & set(files.read_npz(arrays_path))
        )
    except ValueError:
        is_evaluation = False
    if not is_evaluation:
        raise UsageError(
            f"{arrays_path} exists and was not written by an evaluation: move it away, "
            "or choose another --out"
        )


def read(path: pathlib.Path) -> tuple[dict[str, Any], Arrays]:
    """Reads the JSON values and the arrays.

    Raises:
      UsageError: it is no evaluation or of another format, or its arrays are missing or
        different ones.
    """
    values = _values(path)
    if values.get("format", 0) > FORMAT:
        raise _newer(path, values["format"])
    if values.get("format") != FORMAT:
        raise UsageError(
            f"{path} has format {values.get('format')}: must be {FORMAT}, which this "
            "version reads; evaluate again"
        )
    missing = [name for name in ENTRIES if name not in values]
    described = values.get("arrays")
    names = [described.get(n) for n in DESCRIBED] if isinstance(described, dict) else ()
    if missing or not names or not all(isinstance(n, str) and n for n in names):
        raise UsageError(
            f"{path} has no {', '.join(missing) or 'arrays'}: it was changed; evaluate "
            "again"
        )
    arrays_path = path.with_name(pathlib.Path(names[0]).name)
    try:
        content = arrays_path.read_bytes()
    except OSError as error:
        raise UsageError(
            f"{arrays_path}, which belongs to {path}, is missing: evaluate again"
        ) from error
    if hashlib.sha256(content).hexdigest() != names[1]:
        raise UsageError(
            f"{arrays_path} is corrupted or does not belong to {path}: evaluate again"
        )
    with np.load(io.BytesIO(content)) as file:
        return values, {name: file[name] for name in file.files}


def solver_bound(error: Mapping[str, Any]) -> float:
    """Bounds the ODE solver's error of `eval.json`: mean and two standard errors."""
    return abs(error["mean"]) + 2 * error["stderr"]


def _newer(path: pathlib.Path, there: int) -> NewerError:
    return NewerError(
        f"{path} has format {there}, which a newer version wrote; this one writes "
        f"{FORMAT}: choose another --out, or update"
    )


def _values(path: pathlib.Path) -> dict[str, Any]:
    try:
        values = files.read_json(path)
        values["settings"].keys()
        if not isinstance(values.get("format", 0), int):
            raise TypeError("format must be a whole number")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{path} is no evaluation; choose another --out") from error
    return values
