"""Reads and compares the identities of runs: what the numbers of checkpoints mean.

Every checkpoint carries it, so that sampling needs nothing else and a resume with other
settings is noticed instead of being carried out. `identity.make` makes it; nothing here
needs more than its plain values.
"""

import json
from collections.abc import Mapping
from typing import Any

from experiments.config import schema
from experiments.runtime.errors import UsageError

FORMAT = 2
# May change on a resume besides the entries that the schema calls resumable: the
# trained numbers do not depend on them, but for the last bits on `remat`.
FREE = (
    "versions",
    "config.data.data_dir",  # the examples have a digest
    "config.data.original",
    "config.distillation.teacher",  # its weights are in the state
    "config.data.path",
    "config.data.test_path",
    "config.network.remat",
    "examples.original.data",
    "init_from",
    "network.remat",
    *(f"config.{entry.name}" for entry in schema.TABLE if entry.resumable),
)
# Entries that checkpoints from before them lack, and what they would have said: a row
# for each field that is added to a network.
ADDED = {"network.max_frequency": 1000.0, "network.two_times": False}
# The digest of examples that counts, and the older one, which counts where a checkpoint
# has no other.
CONTENTS, OLDER = "examples.contents", "examples.digest"
# Counts where both have it; checkpoints from before have none.
NAMES = "examples.class_names"
LONGEST = 20  # items of a list in a message


def check_format(identity: Mapping[str, Any]) -> None:
    """Raises a `UsageError` if this code cannot read the checkpoint's format."""
    if identity.get("format") != FORMAT:
        raise UsageError(
            f"checkpoint format {identity.get('format')}: this version reads format "
            f"{FORMAT}; the checkpoint was written by {identity.get('versions')}"
        )


def diff(saved: Mapping[str, Any], current: Mapping[str, Any]) -> list[str]:
    """What changed since a checkpoint, a line per entry; free entries are left out.

    An entry that one of them lacks since it is older has the value of `ADDED`, or the
    default of the config's table.
    """
    saved, current = entries(saved), entries(current)
    free = {*FREE, *(name for name in saved.keys() | current.keys() if _path(name))}
    constant = current.get("config.optimizer.schedule") == "constant"
    if constant and not current.get("config.distillation.method"):
        free.add("config.num_steps")  # then only the end of the run depends on it
    free.add(OLDER if CONTENTS in saved and CONTENTS in current else CONTENTS)
    if NAMES not in saved or NAMES not in current:
        free.add(NAMES)
    lines = []
    for name in sorted(saved.keys() | current.keys()):
        there, here = (side.get(name, _default(name)) for side in (saved, current))
        if there != here and not any(_within(name, prefix) for prefix in free):
            there, here = map(_shown, (there, here))
            lines.append(f"{name}: {there} in the checkpoint, {here} now")
    return lines


def _default(name: str) -> Any:
    """What an entry means where an identity lacks it, by its dotted name."""
    if name in ADDED:
        return ADDED[name]
    entry = schema.BY_NAME.get(name.removeprefix("config."))
    if entry is None or entry.default is schema.REQUIRED:
        return "nothing"
    return json.loads(json.dumps(entry.default))  # tuples as lists


def _shown(value: Any) -> str:
    """A value for a message; the names of many classes by their count and ends."""
    if not isinstance(value, list) or len(value) <= LONGEST:
        return repr(value)
    return f"[{value[0]!r}, {value[1]!r}, ... {value[-1]!r}] ({len(value):,})"


def check_compatible(
    saved: Mapping[str, Any], current: Mapping[str, Any], step: int
) -> None:
    """Refuses a resume with other settings.

    Raises:
      UsageError: with the list of differences.
    """
    lines = diff(saved, current)
    if lines:
        listed = "\n  ".join(lines)
        raise UsageError(
            f"the checkpoint of step {step} belongs to another run:\n  {listed}\n"
            "resume with the old settings (modules as they were are in modules/ of the "
            "run), or choose another --workdir"
        )


def is_free(name: str) -> bool:
    """Whether the trained numbers do not depend on an entry, by its dotted name."""
    return any(_within(name, prefix) for prefix in FREE)


def _path(name: str) -> bool:
    """Whether an entry is where a module was found; its digest counts."""
    return name.startswith("modules.") and name.endswith(".path")


def _within(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(prefix + ".")


def entries(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings such as an identity as one, keys joined by dots."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= entries(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
