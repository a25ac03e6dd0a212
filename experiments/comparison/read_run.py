"""Reads the records of a run from its directory, as far as they are consistent."""

import pathlib
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.checkpointing import manager, metadata
from experiments.comparison.run_record import UNKNOWN, RunRecord
from experiments.evaluation import results
from experiments.runtime import environment, files
from experiments.runtime.errors import UsageError
from experiments.training import metrics_log


def read(workdir: pathlib.Path) -> RunRecord:
    """Reads the records of a run from its directory.

    Raises:
      UsageError: it holds neither checkpoint nor evaluation, or a file is corrupted.
    """
    evaluation, arrays, notes = _evaluation(workdir)
    if evaluation is None or (workdir / manager.DIRECTORY).is_dir():
        with manager.Checkpoints(workdir, read_only=True) as saved:
            step = saved.newest()
            if step is None:
                raise UsageError(
                    f"{saved.directory} holds no complete checkpoint yet: train the "
                    "run until it has saved one"
                )
            identity = saved.identity(step)
            metadata.check_format(identity)
            reason = (
                None
                if evaluation is None
                else _other(evaluation, saved, step, identity)
            )
    else:
        step, identity, reason = (
            evaluation["settings"]["step"],
            evaluation["identity"],
            None,
        )
        metadata.check_format(identity)
    if reason is not None:
        path = workdir / "eval.json"
        notes.append(f"{path} is left out: {reason}; move it away and evaluate again")
        evaluation, arrays = None, {}
    elif evaluation is not None:
        left_out = evaluation["left_out"].items()
        notes += [f"{workdir}: {name} is left out: {why}" for name, why in left_out]
    times = _rows(workdir / metrics_log.WALL_CLOCK)
    return RunRecord(
        workdir,
        step,
        identity,
        _rows(workdir / metrics_log.FILE_NAME),
        times,
        _machines(workdir / "environment.json", times),
        evaluation,
        arrays,
        tuple(notes),
    )


def _other(
    evaluation: Mapping[str, Any],
    saved: manager.Checkpoints,
    step: int,
    identity: Mapping[str, Any],
) -> str | None:
    """Returns why an evaluation is not of the newest checkpoint; None if it is."""
    if other := metadata.diff(evaluation["identity"], identity):
        return f"it is of another run, {other[0]}"
    settings = evaluation["settings"]
    if settings["step"] != step:
        return f"it is of step {settings['step']:,}, and the run is at step {step:,}"
    weights = settings["weights"]
    try:
        digest = saved.digest(step, manager.WEIGHTS[weights])
    except (OSError, ValueError, KeyError) as error:
        return f"step {step:,} cannot be read, or a training removed it now: {error}"
    if settings["parameters"] != digest:
        return (
            f"it is of other {weights} weights of step {step:,}: the run was trained "
            "again since"
        )
    return None


def _evaluation(workdir: pathlib.Path) -> tuple[Any, results.Arrays, list[str]]:
    path = workdir / "eval.json"
    flag = shlex.quote(f"--workdir={workdir}")
    way = f"diffusionflow evaluate {flag}"
    if not path.exists():
        return None, {}, [f"{workdir} is not evaluated: {way}"]
    try:
        return *results.read(path), []
    except results.NewerError as error:
        return None, {}, [str(error)]
    except UsageError as error:
        return None, {}, [f"{error}; evaluate again: {way}"]


def _rows(path: pathlib.Path) -> list[dict[str, Any]]:
    """Reads the rows of a log; none where there is no file."""
    return metrics_log.read(path) if path.exists() else []


def _machines(
    path: pathlib.Path, times: Sequence[Mapping[str, Any]]
) -> tuple[str, ...]:
    known = dict.fromkeys(row.get("machine", UNKNOWN) for row in times)
    if known.keys() - {UNKNOWN}:
        return tuple(known)
    try:
        return (environment.machine(files.read_json(path)),)
    except (OSError, ValueError, KeyError, TypeError):
        return ()
