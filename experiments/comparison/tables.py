"""The tables of a comparison: a column a recipe, or a row a run."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments.checkpointing import metadata
from experiments.comparison import ode_accuracy
from experiments.comparison.grouping import Group
from experiments.comparison.paired import Finding
from experiments.comparison.quantities import LIKELIHOODS, Findings
from experiments.comparison.run_record import UNKNOWN, RunRecord
from experiments.visualization.blocks import Table


def summary(groups: Sequence[Group], found: Findings) -> Table:
    """Summary table: a row for each quantity, a column for each group.

    Images/s are left out where `unlike_machines` says why.
    """
    rows = [["training seeds", *(_seeds(group) for group in groups)]]
    rows.append(["trained to step", *(f"{group.first.step:,}" for group in groups)])
    for one in found.main:
        unit = f", {one.unit}" if one.unit else ""
        cells = [
            f"{value.value:.4g} ± {value.standard_error:.2g}"
            if (value := one.values.get(group.name))
            else "-"
            for group in groups
        ]
        rows.append([f"{one.title}{unit}", *cells])
        if one.title == LIKELIHOODS["ode"]:
            rows += _of_the_solver(groups, unit)
    if unlike_machines(groups) is None:
        rows.append(["training images/s", *(_rate(group) for group in groups)])
    return Table(["", *(group.name for group in groups)], rows)


def _of_the_solver(groups: Sequence[Group], unit: str) -> list[list[str]]:
    """The error of the ODE's solver, and where the ODE was cut off, if that differs."""
    errors = [ode_accuracy.within(group) for group in groups]
    cells = ["-" if error is None else f"{error:.2g}" for error in errors]
    known = any(error is not None for error in errors)
    rows = [[f"error of the ODE solver, at most{unit}", *cells]] if known else []
    ends = [
        ode_accuracy.ends(group.evaluated[0]) if group.evaluated else {}
        for group in groups
    ]
    for name in ("data", "noise"):
        each = [found.get(name, "-") for found in ends]
        if len(set(each) - {"-"}) > 1:
            rows.append([f"end of the ODE at the {name}", *each])
    return rows


def unlike_machines(groups: Sequence[Group]) -> str | None:
    """Why images/s are not compared, in one line; None if they are."""
    runs = [run for group in groups for run in group.runs]
    every = {run.workdir: run.machines or (UNKNOWN,) for run in runs}
    by_machines: dict[tuple[str, ...], list[str]] = {}
    for workdir, machines in every.items():
        by_machines.setdefault(machines, []).append(str(workdir))
    if len({machine for machines in every.values() for machine in machines}) == 1:
        return None
    listed = "; ".join(
        f"{', '.join(workdirs[:3])}{' and others' if len(workdirs) > 3 else ''}: "
        f"{' and then '.join(machines)}"
        for machines, workdirs in by_machines.items()
    )
    return f"training images/s are not compared, on different machines: {listed}"


def _seeds(group: Group) -> str:
    return ", ".join(str(run.config["seed"]) for run in group.runs)


def _median(run: RunRecord, name: str, machine: str | None = None) -> float | None:
    """Over the logged steps, or those of one of several machines."""
    several = machine is not None and len(run.machines) > 1
    values = [
        row[name]
        for row in run.wall_clock
        if row.get(name) is not None
        and (not several or row.get("machine", UNKNOWN) == machine)
    ]
    return float(np.median(values)) if values else None


def _rate(group: Group) -> str:
    rates = [r for run in group.runs if (r := _median(run, "images_per_second"))]
    return f"{np.median(rates):,.0f}" if rates else "-"


def configs(groups: Sequence[Group]) -> Table:
    """The entries of the configs that differ, and versions and data that do."""
    each = [
        metadata.entries(
            {
                "config": group.first.config,
                "examples": group.first.identity["examples"],
                "versions": group.first.identity["versions"],
                "init_from": group.first.identity.get("init_from", "nothing"),
                "step": group.first.step,
            }
        )
        for group in groups
    ]
    rows = [["seeds", *(_seeds(group) for group in groups)]]
    for name in sorted(set().union(*each)):
        values = [entries.get(name, "nothing") for entries in each]
        if name != "config.seed" and any(value != values[0] for value in values):
            free = name.startswith("config.") and metadata.is_free(name)
            mark = " (not trained on)" if free else ""
            rows.append([name.removeprefix("config.") + mark, *map(_text, values)])
    return Table(["entry", *(group.name for group in groups)], rows)


def _text(value: Any) -> str:
    return "(empty)" if value == "" else str(value)


def distances(found: Findings, names: Sequence[str]) -> Table:
    """Every metric: each group's value, and the paired difference under it."""

    def cell(one: Finding, name: str) -> str:
        if name not in one.values:
            return "-"
        value = one.values[name]
        text = f"{value.value:.4g} ± {value.standard_error:.2g}"
        if name not in one.differences:
            return text
        if one.reference != names[0]:
            return text
        each = one.differences[name]
        apart = not each.low <= 0 <= each.high
        word = ("worse" if each.value > 0 else "better") if apart else "not significant"
        return f"{text}; {each.value:+.3g} [{each.low:+.3g}, {each.high:+.3g}] {word}"

    rows = [
        [one.finding.title, *(cell(one.finding, name) for name in names)]
        for one in found.samples
    ]
    caption = "After the semicolon: the paired difference from the first recipe."
    return Table(["distance", *names], rows, caption)


def throughput(groups: Sequence[Group]) -> Table:
    """Images per second and peak memory of each run, on each of its machines."""
    rows = [
        [
            f"{group.name}, seed {run.config['seed']}",
            f"{rate:,.0f}" if (rate := _median(run, "images_per_second", on)) else "-",
            f"{run.config['batch_size']:,}",
            *(
                f"{peak:.2f}" if (peak := _median(run, name, on)) else "-"
                for name in ("host_memory_gib", "device_memory_gib")
            ),
            on or "-",
        ]
        for group in groups
        for run in group.runs
        for on in run.machines or (None,)
    ]
    head = ["run", "images/s", "batch", "host GiB", "device GiB", "machine"]
    return Table(head, rows)
