"""What is found between recipes: numbers, differences with intervals, and refusals.

Everything here is better the lower it is. A difference is that of a group from the
first one, the reference. It is taken of the same examples, or of samples from the same
seeds, which are drawn again together; where both have several training seeds, their
scatter is in the interval too, and otherwise the finding is about these very runs.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from diffusionflow import metrics
from diffusionflow.metrics import Estimate
from experiments import evaluation
from experiments.groups import Group, Run

LIKELIHOODS = {"bound": "bound on -log p", "ode": "-log p by the ODE"}


class Measured(NamedTuple):
    """A number of a run.

    Fields:
      value: of each example, `[n]`; or an estimate and its resamples.
      recipe: what it was computed by; only equal ones compare.
      count: examples or samples.
    """

    value: Any
    recipe: Mapping[str, Any]
    count: int


class Finding(NamedTuple):
    """One quantity of several groups.

    Fields:
      title: what it is.
      unit: its unit, empty for none.
      of: what `count` counts: examples or samples.
      count: of the reference.
      seeds: of each group, how many runs.
      values: of each group, with the interval of the value alone.
      differences: of each group but the reference: its value less the reference's.
      refusals: a line for each group that does not compare.
    """

    title: str
    unit: str
    of: str
    count: int
    seeds: dict[str, int]
    values: dict[str, Estimate]
    differences: dict[str, Estimate]
    refusals: list[str]

    @property
    def reference(self) -> str:
        """The group that the others are compared with."""
        return next(iter(self.values), "")

    def sentences(self) -> list[str]:
        """What is found, a line for each group but the reference."""
        return [self.sentence(name) for name in self.differences] + self.refusals

    def sentence(self, name: str) -> str:
        """Whether a group differs from the reference, and by how much."""
        found = self.differences[name]
        both = self.seeds[name], self.seeds[self.reference]
        repeated = found.recipe["repetitions_in_error"]
        among = f"{self.count:,} {self.of}" + (
            f", {both[0]} and {both[1]} training seeds" if repeated else ""
        )
        unit = f" {self.unit}" if self.unit else ""
        if found.low <= 0 <= found.high:
            return (
                f"{self.title}: no difference told apart between {name} and "
                f"{self.reference}: {found.value:+.3g} [{found.low:+.3g}, "
                f"{found.high:+.3g}]{unit}, n = {among}"
            )
        better, worse = (name, self.reference)[:: 1 if found.value < 0 else -1]
        low, high = sorted(map(abs, (found.low, found.high)))
        return (
            f"{self.title}: {better} is better than {worse} by {abs(found.value):.3g} "
            f"[{low:.3g}, {high:.3g}]{unit}, n = {among}"
        )


class Samples(NamedTuple):
    """A sampler of a group's samples, and what one metric finds.

    Fields:
      metric: its name.
      features: what it compares, without the digest.
      sampler: name, steps and grid, in words.
      family: name, grid and guidance in words: a line of a chart.
      nfe: network calls.
      finding: of the groups that have it.
      floor: what the held-out examples get.
    """

    metric: str
    features: str
    sampler: str
    family: str
    nfe: int
    finding: Finding
    floor: Mapping[str, Any] | None


def find(
    title: str,
    groups: Sequence[Group],
    take_fn: Callable[[Run], Measured | None],
    key: jax.Array,
    *,
    unit: str = "",
    of: str = "examples",
) -> Finding:
    """One quantity of all groups.

    Args:
      title: what it is.
      groups: the first that has the quantity is the reference.
      take_fn: the number of a run; None where there is none.
      key: of the bootstrap.
      unit: of the number.
      of: what it is a mean over.
    """
    found = Finding(title, unit, of, 0, {}, {}, {}, [])
    base, taken = None, {}
    for group in groups:
        each = [(run, got) for run in group.runs if (got := take_fn(run)) is not None]
        if not each:
            continue
        base = base or (group.name, each[0][1])
        why = next(filter(None, (_unlike(base[1], got) for _, got in each)), None)
        if why is not None:
            found.refusals.append(
                f"{title}: {group.name} is not compared with {base[0]}: {why}"
            )
            continue
        taken[group.name] = [got.value for _, got in each]
    for name, values in taken.items():
        found.seeds[name] = len(values)
        found.values[name] = _difference(key, values, None)
        if name != base[0]:
            found.differences[name] = _difference(key, values, taken[base[0]])
    return found._replace(count=base[1].count if base else 0)


def _unlike(a: Measured, b: Measured) -> str | None:
    """Why two numbers do not compare; None if they do."""
    if not _finite(b):
        return "its schedule does not reach every log-SNR of the mean"
    try:
        metrics.check_same_recipe(a.recipe, b.recipe)
    except ValueError as error:
        return str(error)
    return None


def _finite(got: Measured) -> bool:
    value = got.value[1] if isinstance(got.value, tuple) else got.value
    return bool(np.isfinite(value).all())


def _difference(key: jax.Array, a: list[Any], b: list[Any] | None) -> Estimate:
    if isinstance(a[0], tuple):
        return metrics.subtract(key, a, b or ())
    rows = None if b is None else np.stack(b)
    return metrics.mean_difference(key, np.stack(a), rows)


def _data(run: Run) -> dict[str, Any]:
    return {"examples": run.identity["examples"], "data": run.identity["data"]}


def likelihoods(groups: Sequence[Group], key: jax.Array) -> list[Finding]:
    """Bound and density of the same held-out examples."""

    def take(name: str, run: Run) -> Measured | None:
        if run.told is None:
            return None
        told = run.told["likelihood"]
        recipe = _data(run) | {
            "weights": run.told["settings"]["weights"],
            "likelihood": run.told["settings"]["likelihood"],
            "count": told["count"],
        }
        return Measured(run.arrays[name], recipe, told["count"])

    unit = next((g.evaluated[0] for g in groups if g.evaluated), None)
    return [
        find(
            title,
            groups,
            lambda run, name=name: take(name, run),
            key,
            unit="" if unit is None else unit.told["likelihood"]["unit"],
        )
        for name, title in LIKELIHOODS.items()
    ]


def eps_errors(groups: Sequence[Group], key: jax.Array) -> list[Finding]:
    """The error of eps, its mean over the levels first and then at each of them."""

    def take(level: int | None, run: Run) -> Measured | None:
        if run.told is None:
            return None
        weights = run.told["settings"]["weights"]
        every = run.arrays[f"eps_mse_{weights}"].astype(np.float64)
        told = {"weights": weights, "logsnr": run.told["eps_mse"]["logsnr"]}
        value = every.mean(1) if level is None else every[:, level]
        return Measured(value, _data(run) | told, len(every))

    levels = [None, *range(len(evaluation.LEVELS))]
    return [
        find(
            "eps error"
            if level is None
            else f"eps error at log-SNR {evaluation.LEVELS[level]:g}",
            groups,
            lambda run, level=level: take(level, run),
            key,
        )
        for level in levels
    ]


def samples(groups: Sequence[Group], key: jax.Array) -> list[Samples]:
    """Every metric of every sampler that some group was evaluated with."""
    found = []
    for name, feature, section in _kinds(groups):

        def take(
            run: Run, kind: tuple[str, str, str] = (name, feature, section)
        ) -> Measured | None:
            return _of_samples(run, *kind)

        runs = [run for group in groups for run in group.evaluated]
        row = next(row for run in runs if (row := _row(run, section)[1]) is not None)
        sampler = row["sampler"]
        family = f"{sampler['name']}, grid {sampler['grid']}"
        if row["guidance"] != 1:
            family += f", guidance {row['guidance']:g}"
        which = f"{sampler['name']}, {row['nfe']} calls"
        title = f"{name} distance in {feature}, {which}"
        one = find(title, groups, take, key, of="samples")
        floor = next(
            (
                each
                for run in runs
                if run.told is not None
                for each in run.told["floor"]
                if (each["metric"], _plain(each["recipe"])) == (name, feature)
            ),
            None,
        )
        found.append(
            Samples(name, feature, which, family, row["nfe"], one, floor)
        )
    return found


def _plain(recipe: Mapping[str, Any]) -> str:
    """The features of a metric without the digest."""
    return recipe["features"].partition("(")[0]


def section_of(row: Mapping[str, Any]) -> str:
    """By what the same sampler is known in two evaluations."""
    return repr((sorted(row["sampler"].items()), row["guidance"], row["nfe"]))


def _kinds(groups: Sequence[Group]) -> list[tuple[str, str, str]]:
    """Metric, features and sampler of all rows, each once, by calls."""
    kinds = {}
    for group in groups:
        for run in group.evaluated:
            for row in run.told["samples"]:
                for one in row["metrics"]:
                    kind = (one["metric"], _plain(one["recipe"]), section_of(row))
                    kinds.setdefault(kind, row["nfe"])
    return sorted(kinds, key=lambda kind: (kind[1], kind[0], kinds[kind]))


def _row(run: Run, section: str) -> tuple[int, Mapping[str, Any] | None]:
    if run.told is not None:
        for number, row in enumerate(run.told["samples"]):
            if section_of(row) == section:
                return number, row
    return 0, None


def _of_samples(run: Run, metric: str, feature: str, section: str) -> Measured | None:
    number, row = _row(run, section)
    if row is None:
        return None
    for place, one in enumerate(row["metrics"]):
        if (one["metric"], _plain(one["recipe"])) == (metric, feature):
            known = {name: one[name] for name in Estimate._fields}
            value = Estimate(**known), run.arrays[f"samples_{number}"][place]
            recipe = {"weights": run.told["settings"]["weights"], **one["recipe"]}
            return Measured(value, recipe, row["count"])
    return None
