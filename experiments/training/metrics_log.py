"""Writes the metrics of a run: `metrics.jsonl`, and a TensorBoard view of it.

`metrics.jsonl` has one line per logged step, steps strictly increasing, and holds only
numbers that a repetition of the run reproduces; wall-clock figures go to
`wall_clock.jsonl`, where lines are only ever added, and to TensorBoard. After a resume
the lines beyond the restored step are dropped, so an interrupted run leaves the same
bytes as an uninterrupted one.
"""

import json
import math
import os
import pathlib
from typing import Any

import numpy as np

from experiments.checkpointing import retention
from experiments.runtime import files
from experiments.runtime.errors import UsageError
from experiments.training.event_file import EventFile

FILE_NAME = "metrics.jsonl"
WALL_CLOCK = "wall_clock.jsonl"
LOSSES = ("loss", "test_loss_raw", "test_loss_ema")


def read(path: pathlib.Path) -> list[dict[str, Any]]:
    """Reads the rows of a `metrics.jsonl` or `wall_clock.jsonl`, less a torn last line.

    Raises:
      UsageError: if a line before the last one is corrupted.
    """
    return [row for _, row in _complete_lines(path)]


def rankings(path: pathlib.Path) -> dict[int, dict[str, Any]]:
    """Returns the ranking metrics of every step with a row in `metrics.jsonl`.

    Needed as well as those stored in the checkpoints: a row that an interruption
    skipped is written at the next start, after its checkpoint.
    """
    rows = read(path) if path.exists() else []
    return {row["step"]: retention.ranking(row) for row in rows}


def drop_after(path: pathlib.Path, step: float) -> int:
    """Removes the rows beyond `step` and a torn last line, if there are any.

    Returns:
      The step of the last row that is left, or 0.
    """
    if not path.exists():
        return 0
    kept = [(line, row) for line, row in _complete_lines(path) if row["step"] <= step]
    replacement = path.with_suffix(".jsonl.tmp")
    replacement.write_bytes(b"".join(line for line, _ in kept))
    os.replace(replacement, path)
    return kept[-1][1]["step"] if kept else 0


def missing(path: pathlib.Path, every: int, step: int) -> list[int]:
    """Lists the steps before `step`, multiples of `every`, without a row.

    The row of `step` itself may be backfilled after a stop.
    """
    there = {row["step"] for row in read(path)} if path.exists() else set()
    return sorted(set(range(every, step, every)) - there)


def _complete_lines(path: pathlib.Path) -> list[tuple[bytes, dict[str, Any]]]:
    """Reads every complete line with its row."""
    try:
        files.check_regular(path)
    except ValueError as error:
        raise UsageError(f"{error}; move it away") from error
    lines = path.read_bytes().splitlines(keepends=True)
    if lines and not lines[-1].endswith(b"\n"):
        lines.pop()
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            row = files.parse_json(line)
            int(row["step"])
        except (ValueError, TypeError, KeyError, OverflowError) as error:
            raise UsageError(
                f"{path}, line {number} is no JSON with a step: {line[:40]!r}; remove "
                "the line, or move the file away"
            ) from error
        rows.append((line, row))
    return rows


class MetricsWriter:
    """Writes one row per logged step to the files and to TensorBoard.

    Args:
      workdir: the run's directory.
      step: the restored step; later rows of an earlier attempt are dropped.

    Fields:
      last: the step of the last row that was there at the start, or 0.
    """

    def __init__(self, workdir: pathlib.Path, step: int):
        self.path = workdir / FILE_NAME
        self.last = drop_after(self.path, step)
        self._file = self.path.open("ab")
        drop_after(workdir / WALL_CLOCK, math.inf)  # only what is torn
        self._times = (workdir / WALL_CLOCK).open("ab")
        self._events = EventFile(workdir / "tensorboard", step)

    def write(self, step: int, row: dict[str, Any], wall_clock: dict[str, Any]) -> None:
        """Adds the row of `step`.

        Args:
          step: larger than every step written before.
          row: reproducible numbers; scalars, or vectors with one entry per bin; strings
            are not sent to TensorBoard.
          wall_clock: likewise, for `wall_clock.jsonl` and TensorBoard alone.
        """
        for file, numbers in ((self._file, row), (self._times, wall_clock)):
            if numbers:
                values = {name: files.plain(value) for name, value in numbers.items()}
                file.write(json.dumps({"step": step} | values).encode() + b"\n")
                file.flush()
        scalars = {}
        for name, value in (row | wall_clock).items():
            for index, item in enumerate(np.ravel(value)):
                tag = f"{name}/{index:02d}" if np.ndim(value) else name
                if not isinstance(item, str) and math.isfinite(item):
                    scalars[tag] = item
        self._events.write(step, scalars)

    def sync(self) -> None:
        """Puts all rows on disk: a checkpoint of later steps must not outlast them."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Flushes and closes all files."""
        self._file.close()
        self._times.close()
        self._events.close()
