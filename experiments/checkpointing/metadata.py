"""The identity of a run: what the numbers of its checkpoints mean.

Every checkpoint carries it, so that sampling needs nothing else and a resume with other
settings is noticed instead of being carried out.
"""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from experiments.config.model import Model
from experiments.runtime import environment
from experiments.runtime.errors import UsageError

FORMAT = 2
CONVENTIONS = {
    "time": "t = 0 is data, t = 1 is noise; z_t = alpha_t x + sigma_t eps",
    "network_input": "z / sqrt(sigma_data^2 alpha^2 + sigma^2)",
    "network_time": "sigma / (alpha + sigma)",
    "null_label": "num_classes",
}
# May change on a resume: the trained numbers do not depend on them, but for the last
# bits on `cpu_devices`, `sharding` and `remat`.
FREE = (
    "versions",
    "config.checkpoint",
    "config.cpu_devices",
    "config.data.data_dir",  # the examples have a digest
    "config.data.path",
    "config.data.test_path",
    "config.ema.store_every",
    "config.eval",
    "config.guidance",
    "config.network.remat",
    "config.sampler",
    "config.samples",
    "config.sharding",
    "init_from",
    "network.remat",
)
# The digest of examples that counts, and the older one, which counts where a checkpoint
# has no other.
CONTENTS, OLDER = "examples.contents", "examples.digest"
# What a checkpoint of an older version with this format does not mention, by name: the
# value that stands for what was done then.
SINCE: dict[str, Any] = {}


def make(
    config: Mapping[str, Any], model: Model, examples: Mapping[str, Any]
) -> dict[str, Any]:
    """The identity of a run, as plain JSON values.

    Args:
      config: of the run, as plain values.
      model: built from it.
      examples: identity of the data set.
    """
    objective, vectors = model.objective, model.vector_features
    found = {
        "format": FORMAT,
        "conventions": CONVENTIONS,
        "objective": {
            "schedule": repr(objective.schedule),
            "kind": str(objective.kind),
            "weighting": repr(objective.weighting),
            "times": repr(objective.times),
            "proposal": repr(objective.proposal),
        },
        "data": {
            "event_shape": list(model.event_shape),
            "levels": model.transform.levels,
            "num_classes": model.num_classes,
            **({"vector_features": vectors} if vectors else {}),
        },
        "examples": examples,
        "network": {
            "class": type(model.net).__name__,
            **{
                field.name: getattr(model.net, field.name)
                for field in dataclasses.fields(model.net)
                if field.name not in ("parent", "name")
            },
        },
        "config": config,
        "versions": environment.versions(),
    }
    return json.loads(json.dumps(found))  # tuples as lists


def check_format(identity: Mapping[str, Any]) -> None:
    """Raises a `UsageError` if this code cannot read the checkpoint's format."""
    if identity.get("format") != FORMAT:
        raise UsageError(
            f"checkpoint format {identity.get('format')}: this version reads format "
            f"{FORMAT}; the checkpoint was written by {identity.get('versions')}"
        )


def differences(saved: Mapping[str, Any], current: Mapping[str, Any]) -> list[str]:
    """What changed since a checkpoint, a line per entry; free entries are left out."""
    saved, current = SINCE | entries(saved), entries(current)
    free = set(FREE)
    if current.get("config.optimizer.schedule") == "constant":
        free.add("config.num_steps")  # then only the end of the run depends on it
    free.add(OLDER if CONTENTS in saved and CONTENTS in current else CONTENTS)
    lines = []
    for name in sorted(saved.keys() | current.keys()):
        there, here = saved.get(name, "nothing"), current.get(name, "nothing")
        if there != here and not any(_within(name, prefix) for prefix in free):
            lines.append(f"{name}: {there!r} in the checkpoint, {here!r} now")
    return lines


def check_same(saved: Mapping[str, Any], current: Mapping[str, Any], step: int) -> None:
    """Refuses a resume with other settings.

    Raises:
      UsageError: with the list of differences.
    """
    lines = differences(saved, current)
    if lines:
        listed = "\n  ".join(lines)
        raise UsageError(
            f"the checkpoint of step {step} belongs to another run:\n  {listed}\n"
            "resume with the old settings, or choose another --workdir"
        )


def is_free(name: str) -> bool:
    """Whether the trained numbers do not depend on an entry, by its dotted name."""
    return any(_within(name, prefix) for prefix in FREE)


def _within(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(prefix + ".")


def entries(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings such as an identity as one, keys joined by dots."""
    flat = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= entries(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
