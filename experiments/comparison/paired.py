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
from experiments.comparison.grouping import Group
from experiments.comparison.run_record import RunRecord


class Measured(NamedTuple):
    """A number of a run.

    Fields:
      value: of each example, `[n]`; or an estimate and its resamples.
      recipe: what it was computed by; only equal ones compare.
      count: examples or samples.
    """

    value: Any
    recipe: Mapping[str, Any]
    count: int  # type: ignore[assignment]


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
      refusals: why, for each group that does not compare.
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
        """The group that the others are compared with."""
        return next(iter(self.values), "")

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
                f"{self.title}: no significant difference between {name} and "
                f"{self.reference}: {found.value:+.3g} [{found.low:+.3g}, "
                f"{found.high:+.3g}]{unit}, n = {among}"
            )
        better, worse = (name, self.reference)[:: 1 if found.value < 0 else -1]
        low, high = sorted(map(abs, (found.low, found.high)))
        return (
            f"{self.title}: {better} is better than {worse} by {abs(found.value):.3g} "
            f"[{low:.3g}, {high:.3g}]{unit}, n = {among}"
        )


def find(
    title: str,
    groups: Sequence[Group],
    take_fn: Callable[[RunRecord], Measured | None],
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
        each = [got for run in group.runs if (got := take_fn(run)) is not None]
        if not each:
            continue
        if not all(map(_finite, each)):
            found.refusals.append(
                f"{group.name} is left out: not all its numbers are finite; its "
                "schedule does not reach there, or a run has diverged"
            )
            continue
        why = next(filter(None, (_unlike(each[0], got) for got in each[1:])), None)
        if why is not None:
            found.refusals.append(
                f"{group.name} is left out: its seeds are not evaluated alike: {why}"
            )
            continue
        base = base or (group.name, each[0])
        why = _unlike(base[1], each[0])
        if why is not None:
            found.refusals.append(f"{group.name} is not compared with {base[0]}: {why}")
            continue
        taken[group.name] = [got.value for got in each]
    for name, values in taken.items():
        found.seeds[name] = len(values)
        found.values[name] = _difference(key, values, None)
        if name != base[0]:
            found.differences[name] = _difference(key, values, taken[base[0]])
    return found._replace(count=base[1].count if base else 0)


def _unlike(a: Measured, b: Measured) -> str | None:
    """Why two numbers do not compare; None if they do."""
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
