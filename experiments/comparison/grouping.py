"""Reads the runs of a comparison and groups those that differ by their seed alone.

Runs whose identities differ in `config.seed` alone, trained for as many steps from the
same start, are one group; comparison is between groups.
"""

import itertools
import os
import pathlib
import re
from collections.abc import Sequence

from experiments.checkpointing import metadata
from experiments.comparison.read_run import read
from experiments.comparison.run_record import Group, RunRecord
from experiments.runtime.errors import UsageError

MAX_GROUPS = 7  # groups, as many as there are distinguishable colours


def gather(arguments: Sequence[str]) -> list[Group]:
    """Reads runs and groups the seeds of each recipe.

    Args:
      arguments: directories of runs, in the order of the groups; `label=directory`
        names the group of a run.

    Raises:
      UsageError: a directory holds no run, runs with one label differ in more than the
        seed, two runs do not differ at all, or there are not 2 to 7 groups.
    """
    groups: list[tuple[str | None, list[RunRecord]]] = []
    seen: set[str] = set()
    for argument in arguments:
        label, path = _split(argument)
        if os.path.realpath(path) in seen:
            raise UsageError(f"{path} is named twice: give each run once")
        seen.add(os.path.realpath(path))
        run = read(path)
        place = next(
            (runs for known in groups if (runs := _joined(*known, label, run))), None
        )
        if place is None:
            groups.append((label, [run]))
        else:
            place.append(run)
    if not 2 <= len(groups) <= MAX_GROUPS:
        raise UsageError(
            f"compare takes 2 to {MAX_GROUPS} recipes, and the number of those given "
            f"is {len(groups)}, seeds aside; label=directory makes a run one of its own"
        )
    return _named(groups)


def _split(argument: str) -> tuple[str | None, pathlib.Path]:
    """Splits `label=directory`; a directory may have "=" in its name."""
    label, equals, path = argument.partition("=")
    if not equals or pathlib.Path(argument).exists():
        return None, pathlib.Path(argument)
    return label, pathlib.Path(path)


def _joined(
    known: str | None, runs: list[RunRecord], label: str | None, run: RunRecord
) -> list[RunRecord] | None:
    """Returns the runs of a group if a further run belongs to it, else None."""
    if known != label:
        return None
    lines = differences(runs[0], run)
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


def differences(a: RunRecord, b: RunRecord) -> list[str]:
    """Lists the differences, other than the seed, between two runs; a line each."""
    lines = [
        line.replace(" in the checkpoint,", " and").removesuffix(" now")
        for line in metadata.diff(a.identity, b.identity)
        if not line.startswith("config.seed:")
    ]
    if a.step != b.step:
        lines.append(f"step: {a.step} and {b.step}")
    start = [run.identity.get("init_from") for run in (a, b)]
    if start[0] != start[1]:
        lines.append(f"init_from: {start[0]!r} and {start[1]!r}")
    past = [metadata.trained_history(run.identity) for run in (a, b)]
    if past[0] != past[1]:
        lines.append(f"history: {past[0]!r} and {past[1]!r}")
    return lines


def _named(groups: list[tuple[str | None, list[RunRecord]]]) -> list[Group]:
    """Names the groups: by label, directory, or the common prefix of directories."""
    names = [label or _common([run.workdir for run in runs]) for label, runs in groups]
    return [
        Group(name if names.count(name) == 1 else str(runs[0].workdir), tuple(runs))
        for name, (_, runs) in zip(names, groups, strict=True)
    ]


def _common(workdirs: Sequence[pathlib.Path]) -> str:
    """Returns the common prefix of directory names, or else their parent directory."""
    stems = [path.absolute().name for path in workdirs]
    if len(stems) == 1:
        return stems[0]
    letters = itertools.takewhile(
        lambda some: len(set(some)) == 1, zip(*stems, strict=False)
    )
    begin = "".join(some[0] for some in letters)
    begin = re.sub(r"([-_.]+(seed|s)?|^(seed|s))[-_.]*\d*$", "", begin)
    return begin or workdirs[0].absolute().parent.name
