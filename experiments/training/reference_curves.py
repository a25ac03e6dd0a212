"""Compares a run with reference curves of the shipped configs.

`configs/curves/NAME.json` holds the identity of runs of one config and, for each metric
and step, the band in which the same run with another seed lies. A run is watched if
its identity is that of a curve, the seed aside; its program need not know which config
file it came from.
"""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments.checkpointing import metadata
from experiments.config import overrides

DIRECTORY = overrides.shipped() / "curves"
METRICS = (
    "loss",
    "test_loss_raw",
    "test_loss_ema",
    "test_eps_mse_raw",
    "test_eps_mse_ema",
)
DEVIATIONS = 4.0


class Band(NamedTuple):
    """The range of a metric, an entry for each step: middle, lower and upper end."""

    middle: np.ndarray
    low: np.ndarray
    high: np.ndarray


def band(values: np.ndarray) -> Band:
    """Computes the band of positive values [seeds, steps] of at least two seeds.

    In logarithms: the mean, and 4 standard deviations of one further run,
    `s sqrt(1 + 1 / seeds)`, around it. With few seeds the deviation s of one step
    says little, so it is at least the root mean square of those of all steps.

    Raises:
      ValueError: there are less than two seeds, or a value is not positive.
    """
    if len(values) < 2 or not np.all(np.asarray(values) > 0):
        raise ValueError(
            f"{len(values)} seeds, least value {np.min(values)}: a band needs at least "
            "2 seeds and positive values"
        )
    logs = np.log(values)
    middle, own = logs.mean(0), logs.std(0, ddof=1)
    deviation = np.maximum(own, np.sqrt((own**2).mean()))
    reach = DEVIATIONS * np.sqrt(1 + 1 / len(logs)) * deviation
    return Band(*map(np.exp, (middle, middle - reach, middle + reach)))


def make(
    current: Mapping[str, Any], seeds: Sequence[int], runs: Sequence[list[dict]]
) -> dict[str, Any]:
    """Makes the content of a file of `configs/curves`.

    Args:
      current: identity of the config.
      seeds: of the runs.
      runs: the rows of each run; steps that all of them have are taken.
    """
    curves = {}
    for name in METRICS:
        each = [
            {row["step"]: row[name] for row in rows if row.get(name) is not None}
            for rows in runs
        ]
        steps = sorted(set.intersection(*map(set, each)))
        if steps:
            values = np.array([[one[step] for step in steps] for one in each])
            rounded = {
                part: [float(f"{value:.6g}") for value in ends]
                for part, ends in band(values)._asdict().items()
            }
            curves[name] = {"steps": steps} | rounded
    kept = {name: value for name, value in current.items() if name != "versions"}
    return {"seeds": list(seeds), "metrics": curves, "identity": kept}


class Watch:
    """Compares the rows of a run with a curve and reports the first deviation.

    Args:
      name: of the curve.
      curve: as `make` made it, or None for nothing to compare with.
    """

    def __init__(self, name: str = "", curve: Mapping[str, Any] | None = None):
        self.name, self._reported = name, curve is None
        metrics = {} if curve is None else curve["metrics"]
        self._bands = {
            metric: {
                step: (low, high)
                for step, low, high in zip(
                    table["steps"], table["low"], table["high"], strict=True
                )
            }
            for metric, table in metrics.items()
        }
        self._seeds = "" if curve is None else ", ".join(map(str, curve["seeds"]))

    def note(self, step: int, row: Mapping[str, Any]) -> str | None:
        """Returns a line for the first row outside the band, else None."""
        for metric, bounds in self._bands.items():
            if self._reported or metric not in row or step not in bounds:
                continue
            value, (low, high) = float(row[metric]), bounds[step]
            if not low <= value <= high:
                self._reported = True
                return (
                    f"note: {metric.replace('_', ' ')} {value:.4f} at step {step:,} is "
                    f"outside {low:.4f} to {high:.4f}, where seeds {self._seeds} of "
                    f"the same settings lead to expect it (configs/curves/{self.name})"
                )
        return None


def watch(current: Mapping[str, Any], directory: pathlib.Path = DIRECTORY) -> Watch:
    """Makes a watch with the curve of a run's identity; without one if there is none.

    A run that began with another's weights, or with other settings, is not compared: it
    learns differently.
    """
    if current.get("init_from") or metadata.trained_history(current):
        return Watch()
    for path in sorted(directory.glob("*.json")):
        curve = json.loads(path.read_text())
        lines = metadata.diff(curve["identity"], current)
        if all(line.startswith("config.seed:") for line in lines):
            return Watch(path.name, curve)
    return Watch()
