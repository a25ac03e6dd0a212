"""Builds the report of a comparison, section by section, for an HTML page."""

from collections.abc import Sequence
from typing import Any

from diffusionflow import metrics
from experiments.analysis import objective_report
from experiments.analysis.objective_report import Named
from experiments.comparison import charts, ode_accuracy, sample_gallery, tables
from experiments.comparison.quantities import Quantities, Samples
from experiments.comparison.run_record import Group
from experiments.config import build
from experiments.evaluation import heldout
from experiments.runtime.errors import UsageError
from experiments.visualization.blocks import Block, Lines, Row, Section


def headlines(compared: Quantities) -> list[Lines]:
    """Summarizes in sentences: significant differences first, then the others."""
    significant: list[str] = []
    equal: list[str] = []
    for one in compared.main:
        for name, each in one.differences.items():
            inside = each.low <= 0 <= each.high
            (equal if inside else significant).append(one.sentence(name))
    return [Lines(significant), Lines(equal, "equal")]


def exclusions(compared: Quantities) -> Lines:
    """Lists what is not compared and why, each reason once."""
    comparisons = [
        *compared.likelihoods,
        *compared.eps,
        *(one.comparison for one in compared.samples),
    ]
    titles: dict[str, list[str]] = {}
    for one in comparisons:
        for why in one.refusals:
            titles.setdefault(why, []).append(one.title)
    lines = []
    for why, of in titles.items():
        more = f" and {len(of) - 3} others" if len(of) > 3 else ""
        lines.append(f"{'; '.join(of[:3])}{more}: {why}")
    return Lines(lines, "refused")


def notes(groups: Sequence[Group], compared: Quantities) -> Lines:
    """Lists what is missing, and what the confidence intervals include."""
    lines = [note for group in groups for run in group.runs for note in run.notes]
    differences = [each for one in compared.main for each in one.differences.values()]
    if any(not each.recipe["repetitions_in_error"] for each in differences):
        lines.append(
            "where a recipe has one training seed, the difference is one of these "
            "runs: its interval does not include the variation between seeds"
        )
    lines += ode_accuracy.notes(groups, compared.likelihoods[-1])
    if (why := tables.different_machines(groups)) is not None:
        lines.append(why)
    if (unshared := _unshared(compared.samples)) is not None:
        lines.append(unshared)
    return Lines(lines, "note")


def _unshared(samples: Sequence[Samples]) -> str | None:
    """Lists samplers of which only one recipe has samples; None if there are none."""
    only = {one.sampler: "".join(one.calls) for one in samples if len(one.calls) == 1}
    if not only:
        return None
    listed = "; ".join(f"{sampler} ({name})" for sampler, name in only.items())
    return (
        f"one recipe alone has samples of {listed}: run evaluate with the same "
        "--sampler flags, name@steps@grid, for all to compare them"
    )


def objectives(groups: Sequence[Group]) -> Lines:
    """States whether each group has the same objective as the first one."""
    named = [
        Named(
            group.name,
            build.model_of(group.first.identity).objective,
            objective_report.coupling_of(group.first.config),
        )
        for group in groups
    ]
    lines = []
    for other in named[1:]:
        try:
            text = objective_report.comparison(other, named[0])
        except UsageError as error:
            text = f"against {named[0].name}: not compared, {error}"
        lines.append(f"{other.name} " + " ".join(text.split()))
    return Lines(lines)


def _same_data(groups: Sequence[Group]) -> str | None:
    """Returns a line if the held-out examples differ, else None."""
    first = groups[0]
    for group in groups[1:]:
        differing = metrics.same_recipe(group.first.examples, first.first.examples)
        if differing:
            listed = "; ".join(
                f"{name} {a!r} and {b!r}" for name, (a, b) in differing.items()
            )
            names = f"{group.name} and {first.name}"
            return f"{names} have different held-out examples: {listed}"
    return None


def _training(groups: Sequence[Group]) -> Section:
    why, chart = _same_data(groups), None
    if why is None:
        chart = charts.curves(groups)
        why = None if chart else "no run recorded the eps-MSE during training"
    blocks = [chart] if chart else [Lines([why], "refused")]
    return Section(
        "Training", "Losses of different objectives are not comparable.", blocks
    )


def _throughput(groups: Sequence[Group]) -> Section:
    blocks: list[Any] = [tables.throughput(groups)]
    if (why := tables.different_machines(groups)) is not None:
        blocks.append(Lines([why], "refused"))
    lead = (
        "Medians over the logged steps of a run, without compilation, evaluation and "
        "sampling. Other load on the machine is included."
    )
    return Section("Throughput", lead, blocks)


def build_report(groups: Sequence[Group], compared: Quantities) -> list[Section]:
    """Builds all sections of the page."""
    names = [group.name for group in groups]
    lead = (
        "Lower is better for -log p, eps-MSE and distances. ±: one standard error. "
        "Brackets: 95 % confidence intervals, not corrected for multiple comparisons: "
        "of many comparisons of equals, one in twenty excludes 0."
    )
    blocks: list[Block] = [
        tables.summary(groups, compared),
        *headlines(compared),
        exclusions(compared),
        notes(groups, compared),
    ]
    sections = [
        Section("Summary", lead, blocks),
        Section(
            "Recipes",
            "Config entries that differ, and whether the objectives are the same: the "
            "same total weight on the eps-MSE at each log-SNR.",
            [tables.configs(groups), objectives(groups)],
        ),
        _training(groups),
    ]
    level = charts.levels(compared.eps[1:], heldout.LEVELS.tolist(), names)
    if level is not None:
        sections.append(Section("Difference by log-SNR", "", [level]))
    if compared.samples:
        lead = (
            "One line per recipe and sampler, against the number of function "
            "evaluations (NFE): left is cheaper, down is better."
        )
        quality: list[Block] = [
            Row(charts.quality(compared.samples, names)),
            tables.distances(compared, names),
        ]
        sections.append(Section("Sample quality against NFE", lead, quality))
    side = sample_gallery.section(groups)
    return [*sections, *([side] if side else []), _throughput(groups)]
