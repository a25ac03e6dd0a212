"""Computes paired differences between recipes, with confidence intervals.

Everything here is better the lower it is. A difference is that of a group from the
first one, the reference. It is computed on the same examples, or on samples from the
same seeds, which are resampled jointly; where both have several training seeds, the
variation between seeds is in the interval too, and otherwise the comparison is of
these particular runs.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from diffusionflow import metrics
from diffusionflow.metrics import Estimate
from experiments.comparison.run_record import Group, RunRecord


class Measurement(NamedTuple):
    """A measured quantity of a run.

    Fields:
      value: of each example, `[n]`; or an estimate and its resamples.
      recipe: what it was computed by; only equal ones compare.
      count: examples or samples.
    """

    value: Any
    recipe: Mapping[str, Any]
    count: int  # type: ignore[assignment]


class Comparison(NamedTuple):
    """One quantity of several groups, with differences from the reference group.

        Fields:
          title: name of the quantity.
          unit: its unit, empty for none.
          of: what `count` counts: examples or samples.
          count: of the reference.
          seeds: of each group, how many runs.
          values: of each group, with the interval of the value alone.
          differences: of each group but the reference: its value less the reference's.
    refusals: the reason, for each group that does not compare.
    """

    title: str
    unit: str
    of: str
    count: int  # type: ignore[assignment]
    seeds: dict[str, int]
    values: dict[str, Estimate]
    differences: dict[str, Estimate]
    refusals: list[str]

    @property
    def reference(self) -> str:
        """Name of the group that the others are compared with."""
        return next(iter(self.values), "")

    def sentence(self, name: str) -> str:
        """States whether a group differs from the reference, and by how much."""
        difference = self.differences[name]
        both = self.seeds[name], self.seeds[self.reference]
        repeated = difference.recipe["repetitions_in_error"]
        among = f"{self.count:,} {self.of}" + (
            f", {both[0]} and {both[1]} training seeds" if repeated else ""
        )
        unit = f" {self.unit}" if self.unit else ""
        if difference.low <= 0 <= difference.high:
            return (
                f"{self.title}: no significant difference between {name} and "
                f"{self.reference}: {difference.value:+.3g} [{difference.low:+.3g}, "
                f"{difference.high:+.3g}]{unit}, n = {among}"
            )
        better, worse = (name, self.reference)[:: 1 if difference.value < 0 else -1]
        low, high = sorted(map(abs, (difference.low, difference.high)))
        return (
            f"{self.title}: {better} is better than {worse} by "
            f"{abs(difference.value):.3g} [{low:.3g}, {high:.3g}]{unit}, n = {among}"
        )


def compare(
    title: str,
    groups: Sequence[Group],
    take_fn: Callable[[RunRecord], Measurement | None],
    key: jax.Array,
    *,
    unit: str = "",
    of: str = "examples",
) -> Comparison:
    """Compares one quantity between all groups.

    Args:
      title: name of the quantity.
      groups: the first that has the quantity is the reference.
      take_fn: the number of a run; None where there is none.
      key: of the bootstrap.
      unit: of the number.
      of: what the mean is over, examples or samples.
    """
    comparison = Comparison(title, unit, of, 0, {}, {}, {}, [])
    reference, measurements = None, {}
    for group in groups:
        each = [
            measured for run in group.runs if (measured := take_fn(run)) is not None
        ]
        if not each:
            continue
        if not all(map(_finite, each)):
            comparison.refusals.append(
                f"{group.name} is left out: not all its numbers are finite; its "
                "schedule does not reach there, or a run has diverged"
            )
            continue
        reasons = (_incompatibility(each[0], measured) for measured in each[1:])
        reason = next(filter(None, reasons), None)
        if reason is not None:
            comparison.refusals.append(
                f"{group.name} is left out: its seeds were evaluated differently: "
                f"{reason}"
            )
            continue
        reference = reference or (group.name, each[0])
        reason = _incompatibility(reference[1], each[0])
        if reason is not None:
            comparison.refusals.append(
                f"{group.name} is not compared with {reference[0]}: {reason}"
            )
            continue
        measurements[group.name] = [measured.value for measured in each]
    for name, values in measurements.items():
        comparison.seeds[name] = len(values)
        comparison.values[name] = _difference(key, values, None)
        if name != reference[0]:
            comparison.differences[name] = _difference(
                key, values, measurements[reference[0]]
            )
    return comparison._replace(count=reference[1].count if reference else 0)


def _incompatibility(a: Measurement, b: Measurement) -> str | None:
    """Returns why two measurements cannot be compared; None if they can."""
    try:
        metrics.check_same_recipe(a.recipe, b.recipe)
    except ValueError as error:
        return str(error)
    return None


def _finite(measured: Measurement) -> bool:
    value = measured.value[1] if isinstance(measured.value, tuple) else measured.value
    return bool(np.isfinite(value).all())


def _difference(key: jax.Array, a: list[Any], b: list[Any] | None) -> Estimate:
    if isinstance(a[0], tuple):
        return metrics.subtract(key, a, b or ())
    rows = None if b is None else np.stack(b)
    return metrics.mean_difference(key, np.stack(a), rows)
