"""Reads and compares the identities of runs: what the numbers of checkpoints mean.

Every checkpoint carries it, so that sampling needs nothing else and a resume with other
settings is noticed instead of being carried out. `identity.make` makes it; nothing here
needs more than its plain values.
"""

import json
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

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
    "history",
    "init_from",
    "network.remat",
    *(f"config.{entry.name}" for entry in schema.TABLE if entry.resumable),
)
# Entries that checkpoints from before them lack, and what they would have said: a row
# for each field that is added to a network.
ADDED = {
    "network.max_frequency": 1000.0,
    "network.time_features": None,
    "network.two_times": False,
}
# The digest of examples that counts, and the older one, which counts where a checkpoint
# has no other.
CONTENTS, OLDER = "examples.contents", "examples.digest"
# Counts where both have it; checkpoints from before have none.
NAMES = "examples.class_names"
LONGEST = 20  # items of a list in a message
ACCUMULATE = "config.optimizer.accumulate"
LOG_EVERY = "config.log.every"


def check_format(identity: Mapping[str, Any]) -> None:
    """Raises a `UsageError` if this code cannot read the checkpoint's format."""
    if identity.get("format") != FORMAT:
        raise UsageError(
            f"checkpoint format {identity.get('format')}: must be {FORMAT}, which this "
            "version reads; install the version that wrote it, "
            f"{identity.get('versions')}"
        )


class Change(NamedTuple):
    """A difference between two identities.

    Fields:
      name: dotted.
      old: value before.
      new: value after.
      entry: what `--accept_change` calls it; empty where it cannot be accepted.
    """

    name: str
    old: Any
    new: Any
    entry: str = ""

    def __str__(self) -> str:
        old, new = map(_shown, (self.old, self.new))
        return f"{self.name}: {old} in the checkpoint, {new} now"


def diff(saved: Mapping[str, Any], current: Mapping[str, Any]) -> list[str]:
    """Lists what changed since a checkpoint, an entry a line; leaves free ones out."""
    return list(map(str, changes(saved, current)))


def changes(saved: Mapping[str, Any], current: Mapping[str, Any]) -> list[Change]:
    """Lists what changed since a checkpoint; free entries are left out.

    An entry that one of them lacks since it is older has the value of `ADDED`, or the
    default of the config's table.
    """
    saved, current = entries(saved), entries(current)
    free = _free(saved, current)
    found = []
    for name in sorted(saved.keys() | current.keys()):
        there, here = (side.get(name, _default(name)) for side in (saved, current))
        if there != here and not any(_within(name, prefix) for prefix in free):
            found.append(Change(name, there, here, _acceptable_as(name, current)))
    return found


def _acceptable_as(name: str, current: Mapping[str, Any]) -> str:
    """Returns the name in `schema.ACCEPTABLE` of a change, or an empty string."""
    if name == "config.num_steps" and current.get("config.distillation.method"):
        return ""  # its stages and its curriculum are parts of them
    if name == NAMES:
        return ""  # a label would name another class
    if _within(name, "examples"):
        return "data"
    if not name.startswith("config."):
        return ""  # shapes, levels and classes, of which the network is made
    name = name.removeprefix("config.")
    return next((each for each in schema.ACCEPTABLE if _within(name, each)), "")


def _free(saved: Mapping[str, Any], current: Mapping[str, Any]) -> set[str]:
    """Finds the entries that may differ between two identities, given as `entries`."""
    free = {*FREE, *(name for name in saved.keys() | current.keys() if _path(name))}
    method = current.get("config.distillation.method")
    constant = current.get("config.optimizer.schedule") == "constant"
    if constant and not method:
        free.add("config.num_steps")  # then only the end of the run depends on it
    if current.get("network.dropout") or method:
        free.discard(ACCUMULATE)  # masks and shares of a method are drawn by part
    free.add(OLDER if CONTENTS in saved and CONTENTS in current else CONTENTS)
    if NAMES not in saved or NAMES not in current:
        free.add(NAMES)
    return free


def _default(name: str) -> Any:
    """Returns what an entry means where an identity lacks it, by its dotted name."""
    if name in ADDED:
        return ADDED[name]
    entry = schema.BY_NAME.get(name.removeprefix("config."))
    if entry is None or entry.default is schema.REQUIRED:
        return "nothing"
    return json.loads(json.dumps(entry.default))  # tuples as lists


def _shown(value: Any) -> str:
    """Formats a value for a message; of many class names, their count and ends."""
    if not isinstance(value, list) or len(value) <= LONGEST:
        return repr(value)
    return f"[{value[0]!r}, {value[1]!r}, ... {value[-1]!r}] ({len(value):,})"


def check_compatible(
    saved: Mapping[str, Any],
    current: Mapping[str, Any],
    step: int,
    accepted: Collection[str] = (),
) -> list[Change]:
    """Refuses a resume with other settings, unless their change is accepted.

    Args:
      saved: identity of the checkpoint.
      current: of the run; what its `history` says of changes after `saved` may differ.
      step: of the checkpoint.
      accepted: names of `schema.ACCEPTABLE`.

    Returns:
      The changes that were accepted.

    Raises:
      UsageError: with the list of differences, and the flag that accepts them.
    """
    found = unrecorded(saved, current, step)
    refused = [each for each in found if each.entry not in accepted]
    if refused:
        listed = "\n  ".join(map(str, refused))
        raise UsageError(
            f"the checkpoint of step {step} belongs to another run:\n  {listed}\n"
            f"you may {_way_out(refused, step, accepted)}"
        )
    return found


def unrecorded(
    saved: Mapping[str, Any], current: Mapping[str, Any], step: int
) -> list[Change]:
    """Finds changes since `step` that the run's history after it does not record."""
    before, since = saved.get("history", []), current.get("history", [])
    recorded = set()
    if since[: len(before)] == before:
        rows = since[len(before) :]
        recorded = {row["entry"] for row in rows if row["step"] >= step}
    return [each for each in changes(saved, current) if each.name not in recorded]


def _way_out(refused: list[Change], step: int, accepted: Collection[str]) -> str:
    """Says what a user can do about the changes that a resume refuses."""
    names = dict.fromkeys(each.entry for each in refused if each.entry)
    ways = ["resume with the old settings"]
    if any(each.name.startswith("modules.") for each in refused):
        ways[0] += " (modules as they were are in modules/ of the run)"
    if names:
        flag = f"--accept_change={','.join(dict.fromkeys([*accepted, *names]))}"
        what = "them" if all(each.entry for each in refused) else ", ".join(names)
        ways.append(f"train on with {what} from step {step} on with {flag}")
    if "num_steps" in names:
        ways.append("start a new run from these weights with --init_from")
    return f"{', '.join(ways)}, or choose another --workdir"


def history(
    saved: Mapping[str, Any], current: Mapping[str, Any], step: int, accepted: Any
) -> list[dict[str, Any]]:
    """Returns rows `step`, `entry`, `old`, `new` of a run's changes, oldest first.

    Args:
      saved: identity of the checkpoint that is resumed.
      current: of the run.
      step: of the checkpoint.
      accepted: what `check_compatible` returned.
    """
    sides = [entries(each).get(LOG_EVERY) for each in (saved, current)]
    if None not in sides and sides[0] != sides[1]:
        accepted = [*accepted, Change(LOG_EVERY, *sides)]
    rows = [
        dict(step=step, entry=each.name, old=each.old, new=each.new)
        for each in accepted
    ]
    return [*saved.get("history", []), *rows]


def trained_history(identity: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns those rows of a run's history on which the trained numbers depend."""
    rows = identity.get("history", [])
    return [row for row in rows if row["entry"] != LOG_EVERY]


def is_free(name: str) -> bool:
    """Returns whether trained numbers do not depend on an entry, by its dotted name."""
    return any(_within(name, prefix) for prefix in FREE)


def _path(name: str) -> bool:
    """Returns whether an entry is the path of a module; its digest counts instead."""
    return name.startswith("modules.") and name.endswith(".path")


def _within(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(prefix + ".")


def entries(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flattens nested mappings such as an identity into one, keys joined by dots."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= entries(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
