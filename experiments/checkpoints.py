"""Checkpoints: the only file that knows Orbax.

A checkpoint is one directory per step with four items: `params`, `ema`, `train` (step,
optimizer, running sums) and `identity` (JSON: what the numbers mean). Sampling reads
`identity` and one of the first two, and needs neither optimizer nor data set. The step
is the position in the data, so nothing of the reader is saved.

Saves are asynchronous: the arrays are copied before `save` returns, so they may be
donated at once. A save that fails raises in a later `save`, in `wait`, or when the
context is left. Restoring is strict: another tree, shape or dtype is refused.
"""

import contextlib
import json
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import orbax.checkpoint as ocp
from absl import logging
from orbax.checkpoint import checkpoint_managers

from experiments.errors import UsageError

ARRAY_ITEMS = ("params", "ema", "train")
DIRECTORY = "checkpoints"


class MismatchError(UsageError):
    """The checkpoint does not fit what it is to be restored into."""


class Checkpoints:
    """The checkpoints of a run; use as a context, leaving it waits for the last save.

    Args:
      workdir: the run's directory.
      keep: how many of the newest checkpoints are kept; None for all.
      read_only: whether nothing is created, written or cleaned up.
      directory: in `workdir`.
      items: names of the pytrees of arrays of a checkpoint.

    Raises:
      UsageError: if `read_only` and there is no such directory.
    """

    def __init__(
        self,
        workdir: pathlib.Path,
        *,
        keep: int | None = 1,
        read_only: bool = False,
        directory: str = DIRECTORY,
        items: Sequence[str] = ARRAY_ITEMS,
    ):
        self.directory, self._items = workdir.absolute() / directory, items
        if read_only and not self.directory.is_dir():
            raise UsageError(
                f"no {directory} in {workdir}: {self.directory} is not a directory; "
                "name the workdir of a run that has saved one"
            )
        handlers = {name: ocp.StandardCheckpointHandler() for name in items}
        handlers["identity"] = ocp.JsonCheckpointHandler()
        with _quiet():
            options = ocp.CheckpointManagerOptions(
                save_decision_policy=checkpoint_managers.FixedIntervalPolicy(1),
                preservation_policy=checkpoint_managers.LatestN(keep),
                cleanup_tmp_directories=not read_only,
                create=not read_only,
                read_only=read_only,
            )
            self._manager = ocp.CheckpointManager(
                self.directory, item_handlers=handlers, options=options
            )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: type | None, *unused: Any) -> None:
        if kind is None:
            self._manager.close()  # waits, and raises if a save failed
        else:
            with contextlib.suppress(Exception):  # the first error is the one to see
                self._manager.close()

    def steps(self) -> list[int]:
        """The steps that have a checkpoint, rising."""
        return sorted(self._manager.all_steps())

    def save(
        self, step: int, items: Mapping[str, Any], identity: Mapping[str, Any]
    ) -> None:
        """Begins to save `items`, a pytree of arrays for each name of the context.

        Raises:
          RuntimeError: if Orbax declines, because a later checkpoint exists.
          Exception: what made an earlier save fail.
        """
        arguments = {name: ocp.args.StandardSave(items[name]) for name in self._items}
        arguments["identity"] = ocp.args.JsonSave(dict(identity))
        if not self._manager.save(step, args=ocp.args.Composite(**arguments)):
            raise RuntimeError(
                f"step {step} was not saved: {self.directory} holds steps "
                f"{self.steps()}; move the later ones away"
            )

    def wait(self) -> None:
        """Waits until the last save is on disk; raises if it failed."""
        self._manager.wait_until_finished()

    def identity(self, step: int) -> dict[str, Any]:
        """What the numbers of `step` mean, as it was saved."""
        arguments = ocp.args.Composite(identity=ocp.args.JsonRestore())
        return self._manager.restore(step, args=arguments)["identity"]

    def restore(self, step: int, targets: Mapping[str, Any]) -> dict[str, Any]:
        """Restores the items of `step` that `targets` names.

        Args:
          step: one of `steps()`.
          targets: for each item a pytree of `jax.ShapeDtypeStruct` with shardings.

        Returns:
          For each item the pytree of arrays.

        Raises:
          MismatchError: if tree, shape or dtype differ; it names the first difference.
        """
        metadata = self._manager.item_metadata(step)
        for name, target in targets.items():
            difference = first_difference(metadata[name].tree, target)
            if difference:
                raise MismatchError(f"checkpoint of step {step}, {name}: {difference}")
        arguments = {
            name: ocp.args.StandardRestore(target) for name, target in targets.items()
        }
        restored = self._manager.restore(step, args=ocp.args.Composite(**arguments))
        return {name: restored[name] for name in targets}


def first_difference(saved: Any, target: Any) -> str | None:
    """The first leaf in which two trees of shaped leaves differ, in words.

    Args:
      saved: pytree of leaves with `shape` and `dtype`, as in the checkpoint.
      target: the same, as wanted here.

    Returns:
      A sentence, or None if names, shapes and dtypes all agree.
    """
    saved, target = _named_leaves(saved), _named_leaves(target)
    for name in sorted(saved.keys() | target.keys()):
        if name not in target:
            return f"{name} is in the checkpoint but not in this program"
        if name not in saved:
            return f"{name} is not in the checkpoint"
        for field in ("shape", "dtype"):
            there, here = (getattr(tree[name], field) for tree in (saved, target))
            if there != here:
                return f"{name} has {field} {there} in the checkpoint, {here} here"
    return None


def _named_leaves(tree: Any) -> dict[str, Any]:
    """Leaves by path, the same for a NamedTuple and for the dict that Orbax makes."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {"/".join(map(_key_name, path)): leaf for path, leaf in leaves}


def _key_name(key: Any) -> str:
    for field in ("key", "name", "idx"):
        if hasattr(key, field):
            return str(getattr(key, field))
    raise TypeError(f"unknown kind of tree key {key!r}")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps Orbax from warning that a read-only directory is read only."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)


def plain_json(value: Any) -> Any:
    """`value` as it comes back from JSON: tuples as lists, keys as strings."""
    return json.loads(json.dumps(value))
