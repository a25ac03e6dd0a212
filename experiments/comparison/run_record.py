"""The records of a run, and groups of runs that differ by their seed."""

import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from experiments.config import schema

UNKNOWN = "unknown"  # the machine of rows that name none


class RunRecord(NamedTuple):
    """The records of a run.

    Fields:
      workdir: its directory, as it was given.
      step: of its newest checkpoint, or of its evaluation where that is all there is.
      identity: what its numbers mean.
      rows: of `metrics.jsonl`.
      wall_clock: rows of `wall_clock.jsonl`.
      machines: platform and devices, in words, of all starts that recorded them with
        their examples/s, or else of the last one; empty if unknown.
      evaluation: what `eval.json` holds; None where there is none that counts.
      arrays: those of `eval.npz`.
      notes: a line each of what is missing, with the way out.
    """

    workdir: pathlib.Path
    step: int
    identity: Mapping[str, Any]
    rows: list[dict[str, Any]]
    wall_clock: list[dict[str, Any]]
    machines: tuple[str, ...]
    evaluation: Mapping[str, Any] | None
    arrays: Mapping[str, np.ndarray]
    notes: tuple[str, ...]

    @property
    def config(self) -> Mapping[str, Any]:
        """Config of the run."""
        return self.identity["config"]

    @property
    def likelihood(self) -> Mapping[str, Any] | None:
        """Likelihoods of the evaluation; None where there are none."""
        return None if self.evaluation is None else self.evaluation["likelihood"]

    @property
    def ode_ends(self) -> dict[str, str]:
        """Describes where the ODE ends, at the "data" and at the "noise"."""
        found = {} if self.likelihood is None else self.likelihood["ode_ends"]
        return {
            name: "that of the schedule" if end is None else f"log-SNR {end:.6g}"
            for name, end in found.items()
        }

    @property
    def examples(self) -> dict[str, Any]:
        """Identifies the held-out examples."""
        own = {"data": self.config["data"], "examples": self.identity["examples"]}
        of = own["examples"].get("original", own)  # of pairs: what they stand for
        found = dict(of["examples"]) | self.identity["data"]
        if not found["digest"]:  # made, not read: by the config
            section = schema.data_arguments(of["data"])
            found |= {key: section[key] for key in section if key != "flips"}
        return found


class Group(NamedTuple):
    """A recipe's name and its runs, which differ in their seed alone."""

    name: str
    runs: tuple[RunRecord, ...]

    @property
    def first(self) -> RunRecord:
        """The run that stands for the recipe, the first."""
        return self.runs[0]

    @property
    def evaluated(self) -> tuple[RunRecord, ...]:
        """Selects the runs that have an evaluation."""
        return tuple(run for run in self.runs if run.evaluation is not None)


def sampler_key(row: Mapping[str, Any]) -> str:
    """Returns a key by which two evaluations identify the same sampler."""
    return repr((sorted(row["sampler"].items()), row["guidance"]))
