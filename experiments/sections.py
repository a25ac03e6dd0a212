"""What the page of a comparison says, a section after another."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from diffusionflow import metrics
from experiments import charts, evaluation, explaining, tables
from experiments.errors import UsageError
from experiments.explaining import Named
from experiments.findings import Findings, section_of
from experiments.groups import Group
from experiments.model import from_identity
from experiments.page import Lines, Row, Section, Strip

SHOWN = 20  # samples side by side
A_ROW = 10


def told(found: Findings) -> list[Lines]:
    """The sentences told first: of what is told apart, and then of what is not."""
    apart, equal = [], []
    for one in found.main:
        for name, each in one.differences.items():
            inside = each.low <= 0 <= each.high
            (equal if inside else apart).append(one.sentence(name))
    return [Lines(apart), Lines(equal, "equal")]


def refused(found: Findings) -> Lines:
    """What is not compared and why, each reason once."""
    every = [*found.likelihoods, *found.eps, *(one.finding for one in found.samples)]
    titles: dict[str, list[str]] = {}
    for one in every:
        for why in one.refusals:
            titles.setdefault(why, []).append(one.title)
    lines = []
    for why, of in titles.items():
        more = f" and {len(of) - 3} others" if len(of) > 3 else ""
        lines.append(f"{'; '.join(of[:3])}{more}: {why}")
    return Lines(lines, "refused")


def notes(groups: Sequence[Group], found: Findings) -> Lines:
    """What is missing, and what the intervals mean here."""
    lines = [note for group in groups for run in group.runs for note in run.notes]
    differences = [each for one in found.main for each in one.differences.values()]
    if any(not each.recipe["repetitions_in_error"] for each in differences):
        lines.append(
            "where a recipe has one training seed, the finding is about these runs: "
            "what another seed would give is not in the interval"
        )
    shared = any(one.finding.differences for one in found.samples)
    if found.samples and not shared:
        lines.append(
            "no two recipes were evaluated with one sampler that compares: give "
            "evaluate the same --sampler flags for all"
        )
    return Lines(lines, "note")


def objectives(groups: Sequence[Group]) -> Lines:
    """Whether each group learns the same as the first one."""
    named = [
        Named(group.name, from_identity(group.first.identity).objective)
        for group in groups
    ]
    lines = []
    for other in named[1:]:
        try:
            text = explaining.comparison(other, named[0])
        except UsageError as error:
            text = f"against {named[0].name}: not compared, {error}"
        lines.append(f"{other.name} " + " ".join(text.split()))
    return Lines(lines)


def _same_data(groups: Sequence[Group]) -> str | None:
    """A line where the held-out examples are other ones, else None."""
    first = groups[0]
    for group in groups[1:]:
        unlike = metrics.same_recipe(group.first.examples, first.first.examples)
        if unlike:
            listed = "; ".join(
                f"{name} {a!r} and {b!r}" for name, (a, b) in unlike.items()
            )
            return (
                f"{group.name} and {first.name} have other held-out examples: {listed}"
            )
    return None


def _training(groups: Sequence[Group]) -> Section:
    why, chart = _same_data(groups), None
    if why is None:
        chart = charts.curves(groups)
        why = None if chart else "no run recorded the error of eps while it trained"
    blocks = [chart] if chart else [Lines([why], "refused")]
    return Section("Training", "Losses of unlike objectives do not compare.", blocks)


def _throughput(groups: Sequence[Group]) -> Section:
    machines = {run.machine for group in groups for run in group.runs}
    blocks: list[Any] = [tables.throughput(groups)]
    if len(machines) > 1:
        lines = ["images/s are not compared: the runs were on unlike machines"]
        blocks.append(Lines(lines, "refused"))
    lead = (
        "Medians over the logged steps of a run, compilation, evaluation and drawing "
        "left out. Whatever else the machine did is in them."
    )
    return Section("Throughput", lead, blocks)


class _Drawn(NamedTuple):
    name: str
    samples: np.ndarray


def _side_by_side(groups: Sequence[Group], found: Findings) -> Section | None:
    """Samples of the sampler that most groups share, in pairs of one noise."""
    rows = {}
    for number, group in enumerate(groups):
        for run in group.evaluated[:1]:
            for row in run.told["samples"]:
                key = (section_of(row), run.told["settings"]["samples"]["seed"])
                rows.setdefault(key, {})[number] = (run, row)
    if not rows:
        return None
    chosen = max(
        rows.values(), key=lambda at: (len(at), next(iter(at.values()))[1]["nfe"])
    )
    drawn, lines = {}, []
    for number, (run, row) in chosen.items():
        try:
            with np.load(run.workdir / row["file"]) as file:
                drawn[number] = _Drawn(groups[number].name, file["samples"])
        except (OSError, KeyError, ValueError) as error:
            lines.append(f"{run.workdir / row['file']}: {error}")
    for number, group in enumerate(groups):
        if number not in chosen and group.evaluated:
            lines.append(f"{group.name} has no samples of this sampler and seed")
    row = next(iter(chosen.values()))[1]
    sampler = row["sampler"]
    lead = (
        f"By {sampler['name']}, {sampler['num_steps']} steps. "
        "Samples in one place come from the same noise and label."
    )
    shapes = {one.samples.shape[1:] for one in drawn.values()}
    if len(shapes) > 1:
        lines.append(f"the samples have unlike shapes, {sorted(shapes)}")
        drawn = {}
    blocks = (
        [*_pictures(groups, drawn), Lines(lines, "refused")] if drawn or lines else []
    )
    return Section("Samples side by side", lead, blocks)


def _pictures(groups: Sequence[Group], drawn: dict[int, _Drawn]) -> list[Any]:
    if not drawn:
        return []
    some = next(iter(drawn.values())).samples
    if some.ndim == 2:
        reach = max(float(np.abs(one.samples[:, :2]).max()) for one in drawn.values())
        each = [
            charts.points(one.samples, group=number, name=one.name, reach=1.1 * reach)
            for number, one in drawn.items()
        ]
        return [Row(each, narrow=True)]
    levels = groups[next(iter(drawn))].first.identity["data"]["levels"]
    return [
        Strip(
            [(one.name, one.samples[first : first + A_ROW]) for one in drawn.values()],
            levels,
            f"samples {first} to {first + A_ROW - 1}",
        )
        for first in range(0, min(SHOWN, len(some)), A_ROW)
    ]


def every(groups: Sequence[Group], found: Findings) -> list[Section]:
    """All sections of the page."""
    names = [group.name for group in groups]
    lead = (
        "Of -log p, errors and distances, lower is better. After ±: standard errors. "
        "In brackets: intervals of 95 %, each for itself; of many comparisons of "
        "equals, one in twenty excludes 0."
    )
    blocks = [
        tables.summary(groups, found),
        *told(found),
        refused(found),
        notes(groups, found),
    ]
    sections = [
        Section("What was found", lead, blocks),
        Section(
            "Recipes",
            "The entries in which the configs differ, and whether what is learned, the "
            "total weight on the error of eps at each log-SNR, is the same.",
            [tables.configs(groups), objectives(groups)],
        ),
        _training(groups),
    ]
    level = charts.levels(found.eps[1:], evaluation.LEVELS.tolist(), names)
    if level is not None:
        sections.append(Section("Where they differ", "", [level]))
    if found.samples:
        lead = "A line a recipe and sampler; to the left is cheaper, down is better."
        quality = [
            Row(charts.quality(found.samples, names)),
            tables.distances(found, names),
        ]
        sections.append(Section("Quality against network calls", lead, quality))
    side = _side_by_side(groups, found)
    return [*sections, *([side] if side else []), _throughput(groups)]
