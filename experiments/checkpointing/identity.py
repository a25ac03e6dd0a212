"""Makes the identity of a run: what the numbers of its checkpoints mean."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from experiments.checkpointing import metadata
from experiments.config import external
from experiments.config.model import Model
from experiments.runtime import environment

CONVENTIONS = {
    "time": "t = 0 is data, t = 1 is noise; z_t = alpha_t x + sigma_t eps",
    "network_input": "z / sqrt(sigma_data^2 alpha^2 + sigma^2)",
    "network_time": "sigma / (alpha + sigma)",
    "null_label": "num_classes",
}


def make(
    config: Mapping[str, Any], model: Model, examples: Mapping[str, Any]
) -> dict[str, Any]:
    """Makes the identity of a run, as plain JSON values.

    Args:
      config: of the run, as plain values.
      model: built from it.
      examples: identity of the data set.
    """
    objective, vectors = model.objective, model.vector_features
    found = {
        "format": metadata.FORMAT,
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
        "network": _described(model.net),
        "config": config,
        "modules": external.modules(config),
        "versions": environment.versions(),
    }
    return json.loads(json.dumps(found, default=_named))  # tuples as lists


def _described(net: Any) -> dict[str, Any]:
    """Describes a network by its class and settings."""
    if hasattr(net, "describe"):
        return net.describe()
    fields = dataclasses.fields(net) if dataclasses.is_dataclass(net) else ()
    names = [field.name for field in fields if field.name not in ("parent", "name")]
    settings = {name: getattr(net, name) for name in names}
    return {"class": type(net).__name__, **settings}


def _named(value: Any) -> str:
    """Returns the name or class of what JSON has not, as of an activation function."""
    return getattr(value, "__qualname__", None) or type(value).__qualname__
