"""The files of an evaluation: `eval.json`, its arrays `eval.npz`, `results.csv`.

The arrays are what a comparison takes: `bound` and `ode` of each example in the unit
of `eval.json`; `eps_mse_raw` and `eps_mse_ema` of each example and level, NaN where the
schedule does not reach; and `samples_0`, `samples_1`, ...: the resamples of the metrics
of each sampler, `[metrics, num_resamples]`, in the order of `eval.json`.
"""

import csv
import hashlib
import io
import json
import pathlib
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.runtime import files
from experiments.runtime.errors import UsageError
from experiments.sampling import shards

FORMAT = 3

Arrays = dict[str, np.ndarray]


class NewerError(UsageError):
    """A newer version wrote it."""


def write(
    path: pathlib.Path, told: Mapping[str, Any], found: Mapping[str, np.ndarray]
) -> None:
    """Writes the arrays, and then the JSON values with their digest.

    Args:
      path: of the `eval.json`; killed at any moment, what is there is whole or none.
      told: plain JSON values.
      found: the arrays.
    """
    beside = path.with_suffix(".npz")
    with files.atomic_write(beside) as temporary:
        with temporary.open("wb") as file:
            np.savez(file, **dict[str, Any](found))
        digest = hashlib.sha256(temporary.read_bytes()).hexdigest()
    arrays = {"file": beside.name, "sha256": digest}
    whole = {"format": FORMAT, **told, "arrays": arrays}
    with files.atomic_write(path) as temporary:
        temporary.write_text(json.dumps(whole, indent=1) + "\n")


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
    """Writes every number with its error as a table, for programs of your own.

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


def is_there(path: pathlib.Path, settings: Mapping[str, Any]) -> bool:
    """Whether the result is there; refuses one of other settings.

    One of an older format is computed again, as is one whose arrays are gone; what was
    computed in parts is taken from the cache.

    Raises:
      UsageError: it is that of other settings or weights, of a newer format, or no
        evaluation, or another file is where its arrays would be.
    """
    if not path.exists():
        _check_free(path.with_suffix(".npz"))
        return False
    if (there := _told(path).get("format", 0)) > FORMAT:
        raise _newer(path, there)
    _check_weights(path, _told(path)["settings"], settings)
    shards.check_same(path, _told(path)["settings"], settings)
    try:
        read(path)
    except UsageError as error:
        print(f"evaluating again: {error}", flush=True)
        return False
    return True


def _check_weights(
    path: pathlib.Path, there: Mapping[str, Any], here: Mapping[str, Any]
) -> None:
    """Refuses a result of weights that are called the same and are other ones."""
    same = all(there.get(name) == here.get(name) for name in ("weights", "step"))
    if same and there.get("parameters") != here.get("parameters"):
        raise UsageError(
            f"{path} is of other {here['weights']} weights of step {here['step']:,}: "
            "the run was trained again since; move it away, or choose another --out"
        )


def _check_free(beside: pathlib.Path) -> None:
    """Refuses to write over a file that no evaluation has written."""
    if not beside.exists():
        return
    try:
        with np.load(beside) as file:
            ours = "bound" in file.files
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):
        ours = False
    if not ours:
        raise UsageError(
            f"{beside}, where the arrays would be written, is no evaluation's; choose "
            "another --out"
        )


def read(path: pathlib.Path) -> tuple[dict[str, Any], Arrays]:
    """Reads the JSON values and the arrays.

    Raises:
      UsageError: it is no evaluation or of another format, or its arrays are missing or
        other ones.
    """
    told = _told(path)
    if told.get("format", 0) > FORMAT:
        raise _newer(path, told["format"])
    if told.get("format") != FORMAT:
        raise UsageError(f"{path} has format {told.get('format')}, not {FORMAT}")
    beside = path.with_name(told["arrays"]["file"])
    try:
        content = beside.read_bytes()
    except OSError as error:
        raise UsageError(f"{beside}, which belongs to {path}, is missing") from error
    if hashlib.sha256(content).hexdigest() != told["arrays"]["sha256"]:
        raise UsageError(f"{beside} is corrupted or does not belong to {path}")
    with np.load(io.BytesIO(content)) as file:
        return told, {name: file[name] for name in file.files}


def _newer(path: pathlib.Path, there: int) -> NewerError:
    return NewerError(
        f"{path} has format {there}, which a newer version wrote; this one writes "
        f"{FORMAT}: choose another --out, or update"
    )


def _told(path: pathlib.Path) -> dict[str, Any]:
    try:
        told = json.loads(path.read_text())
        told["settings"].keys()
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{path} is no evaluation; choose another --out") from error
    return told
