"""What is found between recipes: likelihoods, errors of eps, and metrics of samples."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from diffusionflow.metrics import Estimate
from experiments.comparison import ode_accuracy
from experiments.comparison.grouping import Group
from experiments.comparison.paired import Finding, Measured, find
from experiments.comparison.run_record import RunRecord
from experiments.evaluation import heldout

LIKELIHOODS = {"bound": "variational bound on -log p", "ode": "-log p by the ODE"}
KEPT = ("inception", "classifier", "pixels")  # features told first, where there are any
METRIC = "frechet"


class Samples(NamedTuple):
    """A sampler of a group's samples, and what one metric finds.

    Fields:
      metric: its name.
      features: what it compares, without the digest.
      sampler: name, steps and grid, in words.
      family: name, grid and guidance in words: a line of a chart.
      calls: NFE of each group, which its schedule may add one to.
      finding: of the groups that have it.
      floor: what the held-out examples get.
    """

    metric: str
    features: str
    sampler: str
    family: str
    calls: dict[str, int]
    finding: Finding
    floor: Mapping[str, Any] | None


def likelihoods(groups: Sequence[Group], key: jax.Array) -> list[Finding]:
    """Bound and density of the same held-out examples."""

    def take(name: str, run: RunRecord) -> Measured | None:
        if run.evaluation is None:
            return None
        told = run.evaluation["likelihood"]
        recipe = {
            "examples": run.examples,
            "weights": run.evaluation["settings"]["weights"],
            "likelihood": run.evaluation["settings"]["likelihood"],
            "count": told["count"],
        }
        if name == "ode":
            recipe["end_of_the_ode"] = ode_accuracy.ends(run)
        return Measured(run.arrays[name], recipe, told["count"])

    unit = next((g.evaluated[0] for g in groups if g.evaluated), None)
    return [
        find(
            title,
            groups,
            functools.partial(take, name),
            key,
            unit="" if unit is None else unit.evaluation["likelihood"]["unit"],
        )
        for name, title in LIKELIHOODS.items()
    ]


def eps_errors(groups: Sequence[Group], key: jax.Array) -> list[Finding]:
    """The error of eps, its mean over the levels first and then at each of them."""

    def take(level: int | None, run: RunRecord) -> Measured | None:
        if run.evaluation is None:
            return None
        weights = run.evaluation["settings"]["weights"]
        every = run.arrays[f"eps_mse_{weights}"].astype(np.float64)
        told = {"examples": run.examples, "weights": weights}
        value = every.mean(1) if level is None else every[:, level]
        return Measured(value, told, len(every))

    levels = [None, *range(len(heldout.LEVELS))]
    return [
        find(
            "eps-MSE"
            if level is None
            else f"eps-MSE at log-SNR {heldout.LEVELS[level]:g}",
            groups,
            functools.partial(take, level),
            key,
        )
        for level in levels
    ]


def samples(groups: Sequence[Group], key: jax.Array) -> list[Samples]:
    """Every metric of every sampler that some group was evaluated with."""
    return [_samples(groups, key, kind) for kind in _kinds(groups)]


def _samples(
    groups: Sequence[Group], key: jax.Array, kind: tuple[str, str, str]
) -> Samples:
    """One metric, in some features, of one sampler."""
    name, feature, section = kind
    runs = [run for group in groups for run in group.evaluated]
    calls, rows = {}, []
    for group in groups:
        for run in group.evaluated:
            if (has := _row(run, section)[1]) is not None:
                calls[group.name] = has["nfe"]
                rows.append(has)
    sampler, guidance = rows[0]["sampler"], rows[0]["guidance"]
    family = f"{sampler['name']}, grid {sampler['grid']}"
    if guidance != 1:
        family += f", guidance {guidance:g}"
    counts = " or ".join(map(str, sorted(set(calls.values()))))
    which = f"{sampler['name']}, {sampler['num_steps']} steps, NFE {counts}"
    title = f"{name} distance in {feature}, {which}"
    one = find(title, groups, lambda run: _of_samples(run, *kind), key, of="samples")
    floor = _floor(runs, name, feature)
    return Samples(name, feature, which, family, calls, one, floor)


def _floor(
    runs: Sequence[RunRecord], name: str, feature: str
) -> Mapping[str, Any] | None:
    """What the held-out examples get, by the first run that tells it."""
    for run in runs:
        for each in run.evaluation["floor"]:
            if (each["metric"], _plain(each["recipe"])) == (name, feature):
                return each
    return None


def _plain(recipe: Mapping[str, Any]) -> str:
    """The features of a metric without the digest."""
    return recipe["features"].partition("(")[0]


def section_of(row: Mapping[str, Any]) -> str:
    """By what the same sampler is known in two evaluations."""
    return repr((sorted(row["sampler"].items()), row["guidance"]))


def _kinds(groups: Sequence[Group]) -> list[tuple[str, str, str]]:
    """Metric, features and sampler of all rows, each once, by calls."""
    kinds: dict[tuple[str, str, str], int] = {}
    for group in groups:
        for run in group.evaluated:
            for row in run.evaluation["samples"]:
                for one in row["metrics"]:
                    kind = (one["metric"], _plain(one["recipe"]), section_of(row))
                    kinds.setdefault(kind, row["nfe"])
    return sorted(kinds, key=lambda kind: (kind[1], kind[0], kinds[kind]))


def _row(run: RunRecord, section: str) -> tuple[int, Mapping[str, Any] | None]:
    if run.evaluation is not None:
        for number, row in enumerate(run.evaluation["samples"]):
            if section_of(row) == section:
                return number, row
    return 0, None


def _of_samples(
    run: RunRecord, metric: str, feature: str, section: str
) -> Measured | None:
    number, row = _row(run, section)
    if row is None:
        return None
    for place, one in enumerate(row["metrics"]):
        if (one["metric"], _plain(one["recipe"])) == (metric, feature):
            known = {name: one[name] for name in Estimate._fields}
            value = Estimate(**known), run.arrays[f"samples_{number}"][place]
            weights = run.evaluation["settings"]["weights"]
            recipe = {"examples": run.examples, "weights": weights} | one["recipe"]
            return Measured(value, recipe, row["count"])
    return None


class Findings(NamedTuple):
    """All that is computed of the groups.

    Fields:
      likelihoods: bound and density.
      eps: the mean error of eps, and that at each level.
      samples: of every metric.
    """

    likelihoods: list[Finding]
    eps: list[Finding]
    samples: list[Samples]

    @property
    def main(self) -> list[Finding]:
        """Headline quantities: of the samples one metric."""
        there = {one.features for one in self.samples}
        kept = next((name for name in KEPT if name in there), "")
        told = [
            one.finding
            for one in self.samples
            if (one.features, one.metric) == (kept, METRIC)
        ]
        return [*self.likelihoods, self.eps[0], *told]


def collect(groups: Sequence[Group], seed: int) -> Findings:
    """Everything; `seed` is that of the bootstrap."""
    key = jax.random.key(seed)
    return Findings(
        likelihoods(groups, key), eps_errors(groups, key), samples(groups, key)
    )
