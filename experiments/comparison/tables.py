"""Builds the tables of a comparison: a column per recipe, or a row per run."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments.checkpointing import metadata
from experiments.comparison import ode_accuracy
from experiments.comparison.paired import Comparison
from experiments.comparison.quantities import LIKELIHOODS, Quantities
from experiments.comparison.run_record import UNKNOWN, Group, RunRecord
from experiments.visualization.blocks import Table


def summary(groups: Sequence[Group], compared: Quantities) -> Table:
    """Builds the summary table: a row per quantity, a column per group.

    Examples/s are left out where `different_machines` says why.
    """
    rows = [["training seeds", *(_seeds(group) for group in groups)]]
    rows.append(["trained to step", *(f"{group.first.step:,}" for group in groups)])
    for one in compared.main:
        unit = f", {one.unit}" if one.unit else ""
        cells = [
            f"{value.value:.4g} ± {value.standard_error:.2g}"
            if (value := one.values.get(group.name))
            else "-"
            for group in groups
        ]
        rows.append([f"{one.title}{unit}", *cells])
        if one.title == LIKELIHOODS["ode"]:
            rows += _solver_rows(groups, unit)
    if different_machines(groups) is None:
        rows.append(["training examples/s", *(_rate(group) for group in groups)])
    return Table(["", *(group.name for group in groups)], rows)


def _solver_rows(groups: Sequence[Group], unit: str) -> list[list[str]]:
    """Lists the ODE solver's error, and the ODE's ends where they differ."""
    errors = [ode_accuracy.within(group) for group in groups]
    cells = ["-" if error is None else f"{error:.2g}" for error in errors]
    known = any(error is not None for error in errors)
    rows = [[f"error of the ODE solver, at most{unit}", *cells]] if known else []
    ends = [group.evaluated[0].ode_ends if group.evaluated else {} for group in groups]
    for name in ("data", "noise"):
        each = [of_group.get(name, "-") for of_group in ends]
        if len(set(each) - {"-"}) > 1:
            rows.append([f"end of the ODE at the {name}", *each])
    return rows


def different_machines(groups: Sequence[Group]) -> str | None:
    """Returns why examples/s are not compared, in one line; None if they are."""
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
    return f"training examples/s are not compared, on different machines: {listed}"


def _seeds(group: Group) -> str:
    return ", ".join(str(run.config["seed"]) for run in group.runs)


def _median(run: RunRecord, name: str, machine: str | None = None) -> float | None:
    """Returns a median over the logged steps, or those of one of several machines."""
    several = machine is not None and len(run.machines) > 1
    values = [
        row[name]
        for row in run.wall_clock
        if row.get(name) is not None
        and (not several or row.get("machine", UNKNOWN) == machine)
    ]
    return float(np.median(values)) if values else None


def _rate(group: Group) -> str:
    rates = [r for run in group.runs if (r := _median(run, "examples_per_second"))]
    return f"{np.median(rates):,.0f}" if rates else "-"


def configs(groups: Sequence[Group]) -> Table:
    """Lists config entries, versions and data that differ between groups."""
    each = [
        metadata.entries(
            {
                "config": group.first.config,
                "examples": group.first.identity["examples"],
                "versions": group.first.identity["versions"],
                "init_from": group.first.identity.get("init_from", "nothing"),
                "history": metadata.trained_history(group.first.identity) or "nothing",
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


def distances(compared: Quantities, names: Sequence[str]) -> Table:
    """Lists every sample metric: the value, and the paired difference after it."""

    def cell(one: Comparison, name: str) -> str:
        if name not in one.values:
            return "-"
        value = one.values[name]
        text = f"{value.value:.4g} ± {value.standard_error:.2g}"
        if name not in one.differences:
            return text
        if one.reference != names[0]:
            return text
        each = one.differences[name]
        significant = not each.low <= 0 <= each.high
        word = (
            ("worse" if each.value > 0 else "better")
            if significant
            else "not significant"
        )
        return f"{text}; {each.value:+.3g} [{each.low:+.3g}, {each.high:+.3g}] {word}"

    rows = [
        [one.comparison.title, *(cell(one.comparison, name) for name in names)]
        for one in compared.samples
    ]
    caption = "After the semicolon: the paired difference from the first recipe."
    return Table(["distance", *names], rows, caption)


def throughput(groups: Sequence[Group]) -> Table:
    """Lists examples per second and peak memory of each run on each machine."""
    rows = [
        [
            f"{group.name}, seed {run.config['seed']}",
            f"{rate:,.0f}"
            if (rate := _median(run, "examples_per_second", on))
            else "-",
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
    head = ["run", "examples/s", "batch", "host GiB", "device GiB", "machine"]
    return Table(head, rows)
