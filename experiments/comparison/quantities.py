"""Collects the compared quantities: likelihoods, eps-MSE and sample metrics."""

import functools
import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from diffusionflow.metrics import Estimate
from experiments.comparison.paired import Comparison, Measurement, compare
from experiments.comparison.run_record import Group, RunRecord, sampler_key
from experiments.evaluation import heldout

LIKELIHOODS = {"bound": "variational bound on -log p", "ode": "-log p by the ODE"}
HEADLINE_FEATURES = ("inception", "classifier", "pixels")  # the first available
HEADLINE_METRICS = ("frechet", "mmd", "energy")  # likewise


class Samples(NamedTuple):
    """One metric of the samples of one sampler, compared between groups.

    Fields:
      metric: its name.
      features: what it compares, without the digest.
      sampler: name, steps and grid, in words.
      family: name, grid and guidance in words: a line of a chart.
      calls: NFE of each group, which its schedule may add one to.
      comparison: of the groups that were evaluated with this sampler.
      baseline: the metric of the held-out examples; Frechet distances compare with it
        at equal counts alone, else it is None.
    """

    metric: str
    features: str
    sampler: str
    family: str
    calls: dict[str, int]
    comparison: Comparison
    baseline: Mapping[str, Any] | None


def likelihoods(groups: Sequence[Group], key: jax.Array) -> list[Comparison]:
    """Compares bound and density on the same held-out examples."""

    def take(name: str, run: RunRecord) -> Measurement | None:
        if run.likelihood is None or name not in run.likelihood:
            return None
        count = run.likelihood["count"]
        recipe = {
            "examples": run.examples,
            "weights": run.evaluation["settings"]["weights"],
            "likelihood": run.evaluation["settings"]["likelihood"],
            "count": count,
        }
        if name == "ode":
            recipe["end_of_the_ode"] = run.ode_ends
        return Measurement(run.arrays[name], recipe, count)

    runs = [run for group in groups for run in group.runs]
    units = (run.likelihood["unit"] for run in runs if run.likelihood is not None)
    unit = next(units, "")
    return [
        compare(
            title,
            groups,
            functools.partial(take, name),
            key,
            unit=unit,
        )
        for name, title in LIKELIHOODS.items()
    ]


def eps_errors(groups: Sequence[Group], key: jax.Array) -> list[Comparison]:
    """Compares the eps-MSE: the mean over log-SNRs first, then at each of them."""

    def take(level: int | None, run: RunRecord) -> Measurement | None:
        if run.evaluation is None:
            return None
        weights = run.evaluation["settings"]["weights"]
        if f"eps_mse_{weights}" not in run.arrays:  # left out
            return None
        every = run.arrays[f"eps_mse_{weights}"].astype(np.float64)
        recipe = {"examples": run.examples, "weights": weights}
        value = every.mean(1) if level is None else every[:, level]
        return Measurement(value, recipe, len(every))

    levels = [None, *range(len(heldout.LEVELS))]
    return [
        compare(
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
    """Compares every metric of every sampler that some group was evaluated with."""
    return [_samples(groups, key, kind) for kind in _kinds(groups)]


def _samples(
    groups: Sequence[Group], key: jax.Array, kind: tuple[str, str, str]
) -> Samples:
    """Compares one metric, in some features, of one sampler."""
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
    steps = f"{sampler['num_steps']} steps, grid {sampler['grid']}"
    which = f"{sampler['name']}, {steps}, NFE {counts}"
    title = f"{name} distance in {feature}, {which}"
    one = compare(title, groups, lambda run: _of_samples(run, *kind), key, of="samples")
    baseline = _baseline(runs, name, feature)
    if name == "frechet" and baseline is not None:  # its bias depends on the count
        same = {baseline["recipe"]["counts"][0]} == {row["count"] for row in rows}
        baseline = baseline if same else None
    return Samples(name, feature, which, family, calls, one, baseline)


def _baseline(
    runs: Sequence[RunRecord], name: str, feature: str
) -> Mapping[str, Any] | None:
    """Returns a metric of the held-out examples, from the first run that has it."""
    for run in runs:
        for each in run.evaluation["held_out_baseline"]:
            if (each["metric"], _feature_name(each["recipe"])) == (name, feature):
                return each
    return None


def _feature_name(recipe: Mapping[str, Any]) -> str:
    """Returns the name of a metric's features without the digest."""
    return recipe["features"].partition("(")[0]


def _kinds(groups: Sequence[Group]) -> list[tuple[str, str, str]]:
    """Lists metric, features and sampler of all rows, each once, by NFE."""
    kinds: dict[tuple[str, str, str], int] = {}
    for group in groups:
        for run in group.evaluated:
            for row in run.evaluation["samples"]:
                for one in row["metrics"]:
                    kind = (
                        one["metric"],
                        _feature_name(one["recipe"]),
                        sampler_key(row),
                    )
                    kinds.setdefault(kind, row["nfe"])
    return sorted(kinds, key=lambda kind: (kind[1], kind[0], kinds[kind]))


def _row(run: RunRecord, section: str) -> tuple[int, Mapping[str, Any] | None]:
    if run.evaluation is not None:
        for number, row in enumerate(run.evaluation["samples"]):
            if sampler_key(row) == section:
                return number, row
    return 0, None


def _of_samples(
    run: RunRecord, metric: str, feature: str, section: str
) -> Measurement | None:
    number, row = _row(run, section)
    if row is None:
        return None
    for place, one in enumerate(row["metrics"]):
        if (one["metric"], _feature_name(one["recipe"])) == (metric, feature):
            known = {name: one[name] for name in Estimate._fields}
            value = Estimate(**known), run.arrays[f"samples_{number}"][place]
            weights = run.evaluation["settings"]["weights"]
            recipe = {"examples": run.examples, "weights": weights} | one["recipe"]
            return Measurement(value, recipe, row["count"])
    return None


class Quantities(NamedTuple):
    """All compared quantities of the groups.

    Fields:
      likelihoods: bound and density.
      eps: the mean eps-MSE, and that at each log-SNR.
      samples: of every metric.
    """

    likelihoods: list[Comparison]
    eps: list[Comparison]
    samples: list[Samples]

    @property
    def main(self) -> list[Comparison]:
        """Selects the headline quantities; of the sample metrics one."""
        there = {(one.features, one.metric) for one in self.samples}
        order = itertools.product(HEADLINE_FEATURES, HEADLINE_METRICS)
        chosen = next((pair for pair in order if pair in there), None)
        recorded = [
            one.comparison
            for one in self.samples
            if (one.features, one.metric) == chosen
        ]
        return [*self.likelihoods, self.eps[0], *recorded]


def collect(groups: Sequence[Group], seed: int) -> Quantities:
    """Computes all comparisons; `seed` is that of the bootstrap."""
    key = jax.random.key(seed)
    return Quantities(
        likelihoods(groups, key), eps_errors(groups, key), samples(groups, key)
    )
