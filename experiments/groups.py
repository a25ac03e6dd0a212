"""The runs of a comparison, and which of them are seeds of one recipe.

Runs whose identities differ in `config.seed` alone, trained for as many steps from the
same start, are one group; comparison is between groups.
"""

import itertools
import json
import os
import pathlib
import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments import checkpoints, identity, metrics, results
from experiments.errors import UsageError

MOST = 7  # groups, as many as there are colours told apart


class Run(NamedTuple):
    """What a run has left.

    Fields:
      workdir: its directory, as it was given.
      step: of its newest checkpoint, or of its evaluation where that is all there is.
      identity: what its numbers mean.
      rows: of `metrics.jsonl`.
      wall_clock: rows of `wall_clock.jsonl`.
      machine: platform and devices of its last start, in words; empty if unknown.
      told: what `eval.json` holds; None where there is none that counts.
      arrays: those of `eval.npz`.
      notes: a line each of what is missing, with the way out.
    """

    workdir: pathlib.Path
    step: int
    identity: Mapping[str, Any]
    rows: list[dict[str, Any]]
    wall_clock: list[dict[str, Any]]
    machine: str
    told: Mapping[str, Any] | None
    arrays: Mapping[str, np.ndarray]
    notes: tuple[str, ...]

    @property
    def config(self) -> Mapping[str, Any]:
        """Of the run."""
        return self.identity["config"]

    @property
    def examples(self) -> dict[str, Any]:
        """By what its held-out examples are told from others."""
        found = dict(self.identity["examples"]) | self.identity["data"]
        if not found["digest"]:  # made, not read: by the config
            section = self.config["data"]
            found |= {key: section[key] for key in section if key != "flips"}
        return found


class Group(NamedTuple):
    """A recipe: its name and its runs, which differ in their seed."""

    name: str
    runs: tuple[Run, ...]

    @property
    def first(self) -> Run:
        """Any run tells the recipe."""
        return self.runs[0]

    @property
    def evaluated(self) -> tuple[Run, ...]:
        """The runs that have an evaluation."""
        return tuple(run for run in self.runs if run.told is not None)


def gather(arguments: Sequence[str]) -> list[Group]:
    """Reads runs and puts the seeds of a recipe together.

    Args:
      arguments: directories of runs, in the order of the groups; `label=directory`
        names the group of a run.

    Raises:
      UsageError: a directory holds no run, runs with one label differ in more than the
        seed, two runs do not differ at all, or there are not 2 to 7 groups.
    """
    found: list[tuple[str | None, list[Run]]] = []
    seen: set[str] = set()
    for argument in arguments:
        label, path = _split(argument)
        if os.path.realpath(path) in seen:
            raise UsageError(f"{path} is named twice")
        seen.add(os.path.realpath(path))
        run = read(path)
        place = next(
            (runs for known in found if (runs := _joined(*known, label, run))), None
        )
        if place is None:
            found.append((label, [run]))
        else:
            place.append(run)
    if not 2 <= len(found) <= MOST:
        raise UsageError(
            f"compare takes 2 to {MOST} recipes, and the number of those given is "
            f"{len(found)}, seeds aside; label=directory makes a run one of its own"
        )
    return _named(found)


def _split(argument: str) -> tuple[str | None, pathlib.Path]:
    """The label, if any, and the directory; a directory may have "=" in its name."""
    label, equals, path = argument.partition("=")
    if not equals or pathlib.Path(argument).exists():
        return None, pathlib.Path(argument)
    return label, pathlib.Path(path)


def _joined(
    known: str | None, runs: list[Run], label: str | None, run: Run
) -> list[Run] | None:
    """The runs of a group if a further one belongs to it, else None."""
    if known != label:
        return None
    lines = unlike(runs[0], run)
    if lines and label is None:
        return None
    if lines:
        raise UsageError(
            f"{runs[0].workdir} and {run.workdir} are both labelled {label!r}, but "
            f"differ in more than their seed: {'; '.join(lines)}"
        )
    for other in runs:
        if other.config["seed"] == run.config["seed"]:
            raise UsageError(
                f"{other.workdir} and {run.workdir} do not differ in what is trained, "
                "not even in the seed; to compare them all the same, label them: "
                f"a={other.workdir} b={run.workdir}"
            )
    return runs


def unlike(a: Run, b: Run) -> list[str]:
    """In what two runs are not seeds of one recipe, a line each."""
    lines = [
        line.replace(" in the checkpoint,", " and").removesuffix(" now")
        for line in identity.differences(a.identity, b.identity)
        if not line.startswith("config.seed:")
    ]
    if a.step != b.step:
        lines.append(f"step: {a.step} and {b.step}")
    start = [run.identity.get("init_from") for run in (a, b)]
    if start[0] != start[1]:
        lines.append(f"init_from: {start[0]!r} and {start[1]!r}")
    return lines


def read(workdir: pathlib.Path) -> Run:
    """What a run has left in its directory.

    Raises:
      UsageError: it holds neither a checkpoint nor an evaluation, or a file is damaged.
    """
    told, arrays, notes = _evaluation(workdir)
    if told is None or (workdir / checkpoints.DIRECTORY).is_dir():
        with checkpoints.Checkpoints(workdir, read_only=True) as saved:
            step = saved.newest()
            if step is None:
                raise UsageError(f"{saved.directory} holds no complete checkpoint yet")
            meaning = saved.identity(step)
    else:
        step, meaning = told["settings"]["step"], told["identity"]
    identity.check_format(meaning)
    if told is not None and (other := identity.differences(told["identity"], meaning)):
        notes.append(
            f"{workdir / 'eval.json'} is left out: it is of another run, {other[0]}"
        )
        told, arrays = None, {}
    elif told is not None and told["settings"]["step"] != step:
        notes.append(
            f"{workdir / 'eval.json'} is left out: it is of step "
            f"{told['settings']['step']:,}, and the run is at step {step:,}"
        )
        told, arrays = None, {}
    return Run(
        workdir,
        step,
        meaning,
        _rows(workdir / metrics.FILE_NAME),
        _rows(workdir / metrics.WALL_CLOCK),
        _machine(workdir / "environment.json"),
        told,
        arrays,
        tuple(notes),
    )


def _evaluation(workdir: pathlib.Path) -> tuple[Any, results.Arrays, list[str]]:
    path = workdir / "eval.json"
    flag = shlex.quote(f"--workdir={workdir}")
    way = f"python -m experiments.evaluate {flag}"
    if not path.exists():
        return None, {}, [f"{workdir} is not evaluated: {way}"]
    try:
        return *results.read(path), []
    except UsageError as error:
        return None, {}, [f"{error}; evaluate again: {way}"]


def _rows(path: pathlib.Path) -> list[dict[str, Any]]:
    """Rows of a record; none where there is no file."""
    if not path.exists():
        return []
    try:
        return metrics.read(path)
    except ValueError as error:
        raise UsageError(str(error)) from error


def _machine(path: pathlib.Path) -> str:
    try:
        found = json.loads(path.read_text())
        return f"{found['platform']}, {', '.join(found['devices'])}"
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _named(found: list[tuple[str | None, list[Run]]]) -> list[Group]:
    """The groups: by label, name of the directory, or what the names begin with."""
    names = [label or _common([run.workdir for run in runs]) for label, runs in found]
    return [
        Group(name if names.count(name) == 1 else str(runs[0].workdir), tuple(runs))
        for name, (_, runs) in zip(names, found, strict=True)
    ]


def _common(workdirs: Sequence[pathlib.Path]) -> str:
    """What the names have in common at their beginning, or else the directory above."""
    stems = [path.absolute().name for path in workdirs]
    if len(stems) == 1:
        return stems[0]
    letters = itertools.takewhile(
        lambda some: len(set(some)) == 1, zip(*stems, strict=False)
    )
    begin = "".join(some[0] for some in letters)
    begin = re.sub(r"([-_.]+(seed|s)?|^(seed|s))[-_.]*\d*$", "", begin)
    return begin or workdirs[0].absolute().parent.name
