"""Saves and restores checkpoints; the only module that knows Orbax.

A checkpoint is one directory per step with five items: `params`, `ema`, `train` (step,
optimizer, running sums), `identity` (JSON: what the numbers mean) and `scores` (JSON:
numbers that rank it, and digests of the weights, which what is made from them carries).
Sampling reads `identity` and one of the first two, and needs neither optimizer nor data
set. The step is the position in the data, so nothing of the reader is saved.

Saves are asynchronous: the arrays are copied before `save` returns, so they may be
donated at once. A save that fails raises in a later `save`, in `wait`, or when the
context is left. A directory takes its name when it is on disk with its checksum
manifest (`integrity.py`), and one that is corrupted later is quarantined. Restoring is
strict: a different tree, shape or dtype is refused.
"""

import contextlib
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import orbax.checkpoint as ocp
from absl import logging
from orbax.checkpoint import checkpoint_managers

from experiments.checkpointing import (
    integrity,
    orbax_log,
    retention,
    step_directories,
)
from experiments.runtime import distributed, pytrees, sharding
from experiments.runtime.errors import SaveError, UsageError

ARRAY_ITEMS = ("params", "ema", "train")
JSON_ITEMS = ("identity", "scores")
WEIGHTS = {"ema": "ema", "raw": "params"}  # items, by what they are called outside
DIRECTORY = "checkpoints"
DIGESTS = "digests"  # entry of `scores`: of the weights, by their items
_PlainPath: Any = ocp.path.atomicity.AtomicRenameTemporaryPath


class MismatchError(UsageError):
    """Raised if a checkpoint does not fit what it is to be restored into."""


class _CheckedPath(_PlainPath):
    """Path that Orbax writes a step to; it gets its manifest, then its name.

    If that fails, the error is put into `failures`: raised here, in the first process
    alone, it would leave the others waiting for twenty minutes.
    """

    failures: list[Exception]

    @classmethod
    def from_final(cls, final_path: Any, **options: Any) -> Any:
        """Has Orbax finish a directory of another name, which is temporary too.

        Items within a step take their names as they always do.
        """
        if step_directories.SUFFIX in final_path.parent.name:
            return _PlainPath.from_final(final_path, **options)
        unchecked = final_path.with_name(
            step_directories.temporary(final_path.name, "unchecked")
        )
        path = super().from_final(unchecked, **options)
        path.named = final_path
        return path

    def get_final(self) -> Any:
        return self.named

    async def finalize(self) -> None:
        try:
            await super().finalize()
            unchecked = pathlib.Path(super().get_final())
            integrity.write(unchecked, self.named.name)
            unchecked.rename(self.named)
            integrity.sync_directory(unchecked.parent)
        except Exception as error:
            self.failures.append(error)


class Checkpoints:
    """Saves and restores the checkpoints of a run; leaving the context waits for saves.

    Args:
      workdir: the run's directory.
      keep: which checkpoints are kept when there is a newer one; None for all.
      later_fn: gives the numbers by which steps are ranked, by step, besides those that
        are saved with them.
      read_only: whether nothing is created, written or cleaned up.
      directory: in `workdir`.
      items: names of the pytrees of arrays to save; if `read_only`, of those to
        restore.

    Raises:
      UsageError: if `read_only` and there is no such directory; or if what is there
        under the name of a step is no directory.
    """

    def __init__(
        self,
        workdir: pathlib.Path,
        *,
        keep: retention.Keep | None = retention.NEWEST,
        later_fn: Callable[[], Mapping[int, Mapping[str, Any]]] = dict,
        read_only: bool = False,
        directory: str = DIRECTORY,
        items: Sequence[str] = ARRAY_ITEMS,
    ):
        self.directory, self._items = workdir.absolute() / directory, items
        self._keep, self._later_fn = keep, later_fn
        self._read_only, self._has_saved = read_only, False
        self._failures: list[Exception] = []
        self._filter = orbax_log.Filter()
        if read_only and not self.directory.is_dir():
            raise UsageError(
                f"no {directory} in {workdir}: {self.directory} is not a directory; "
                "name the workdir of a run that has saved one"
            )
        if not read_only:
            distributed.on_first(self._check_names)
        orbax_log.Filter.remove_ended()
        handlers = {name: ocp.StandardCheckpointHandler() for name in items}
        handlers |= {name: ocp.JsonCheckpointHandler() for name in JSON_ITEMS}
        with orbax_log.quiet(logging.ERROR):
            options = ocp.CheckpointManagerOptions(
                save_decision_policy=checkpoint_managers.FixedIntervalPolicy(1),
                preservation_policy=checkpoint_managers.LatestN(),  # all
                temporary_path_class=type(
                    "_CheckedPath", (_CheckedPath,), {"failures": self._failures}
                ),
                lightweight_initialize=True,  # or corrupted metadata would end it here
                create=not read_only,
                read_only=read_only,
            )
            self._manager = ocp.CheckpointManager(
                self.directory, item_handlers=handlers, options=options
            )
        if not read_only:
            distributed.on_first(lambda: step_directories.sweep(self.directory))

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: type | None, *unused: Any) -> None:
        if kind is not None:
            self._close_after_error()
            return
        try:
            self.wait()
            self._manager.close()
            if self._has_saved:
                self._retain()
        except BaseException:
            self._close_after_error()
            raise
        self._filter.remove()

    def _close_after_error(self) -> None:
        with contextlib.suppress(Exception):  # the first error is to be seen
            self._manager.close()
        self._filter.keep_to_running_threads()

    def steps(self) -> list[int]:
        """Lists the steps that have a checkpoint, rising."""
        return step_directories.steps(self.directory)

    def newest(self) -> int | None:
        """Returns the newest step with an intact checkpoint; None if there is no step.

        Newer ones that are corrupted are quarantined with a warning, or skipped if
        `read_only`.

        Raises:
          UsageError: if there are checkpoints, but none is intact.
        """
        rename = not self._read_only
        step = distributed.on_first(
            lambda: step_directories.newest(self.directory, rename=rename)
        )
        self._manager.reload()
        return step

    def check(self, step: int) -> None:
        """Raises a `UsageError` if the checkpoint of `step` is not intact."""
        step_directories.check(self.directory, step)

    def save(
        self,
        step: int,
        items: Mapping[str, Any],
        identity: Mapping[str, Any],
        scores: Mapping[str, Any] | None = None,
    ) -> None:
        """Starts to save `items`, a pytree of arrays for each name of the context.

        Args:
          step: after all that there are.
          items: the arrays.
          identity: what they mean, plain JSON.
          scores: by which checkpoints are ranked, numbers by name.

        Raises:
          SaveError: this save or an earlier one failed, or Orbax declines, because a
            later checkpoint exists.
        """
        self.wait()
        distributed.on_first(self._check_names)
        self._retain()
        arguments = {name: ocp.args.StandardSave(items[name]) for name in self._items}
        arguments["identity"] = ocp.args.JsonSave(dict(identity))
        digests = {
            item: pytrees.digest(items[item])
            for item in WEIGHTS.values()
            if item in self._items and pytrees.is_here(items[item])
        }
        arguments["scores"] = ocp.args.JsonSave({**(scores or {}), DIGESTS: digests})
        self._filter.add()
        with self._failing():
            saved = self._manager.save(step, args=ocp.args.Composite(**arguments))
        self._has_saved = True
        if not saved:
            raise SaveError(
                f"step {step} was not saved: {self.directory} holds steps "
                f"{self.steps()}; move the later ones away"
            )

    def wait(self) -> None:
        """Waits until the last save is on disk; raises a `SaveError` if it failed."""
        with self._failing():
            self._manager.wait_until_finished()
        distributed.on_first(self._check_manifest)

    def _check_names(self) -> None:
        step_directories.check_names(self.directory)

    def _check_manifest(self) -> None:
        """Raises what kept the manifest of the last save from being written."""
        if self._failures:
            with self._failing():
                raise self._failures.pop()

    @contextlib.contextmanager
    def _failing(self) -> Iterator[None]:
        """Turns whatever a save raises, in this thread or its own, into `SaveError`."""
        try:
            with orbax_log.quiet(logging.FATAL):
                yield
        except Exception as error:
            if distributed.is_peer_lost(error):
                raise
            orbax_log.ignore_abandoned_writes()
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            raise SaveError(
                f"a checkpoint could not be saved in {self.directory} ({reason}); "
                f"intact ones: steps {self.steps()}. Free disk space or fix the disk, "
                "then the same command goes on"
            ) from error

    def _retain(self) -> None:
        if self._keep and not self._read_only:
            distributed.on_first(
                lambda: step_directories.retain(
                    self.directory, self._keep, self._later_fn()
                )
            )

    def identity(self, step: int) -> dict[str, Any]:
        """Reads what the numbers of `step` mean, as saved."""
        arguments = ocp.args.Composite(identity=ocp.args.JsonRestore())
        return self._manager.restore(step, args=arguments)["identity"]

    def scores(self, step: int) -> dict[str, Any]:
        """Reads the numbers by which the checkpoint of `step` is ranked, as saved."""
        arguments = ocp.args.Composite(scores=ocp.args.JsonRestore())
        return self._manager.restore(step, args=arguments)["scores"]

    def digest(self, step: int, item: str) -> str:
        """Reads the digest of weights, `pytrees.digest`, or computes it.

        It is not saved with weights sharded over processes, nor in older checkpoints.

        Args:
          step: one of `steps()`.
          item: such as `WEIGHTS["ema"]`.
        """
        saved = self.scores(step).get(DIGESTS, {})
        if item in saved:
            return saved[item]
        targets = {item: self.abstract(step, item)}
        return pytrees.digest(self.restore(step, targets)[item])

    def abstract(self, step: int, item: str) -> Any:
        """Returns the arrays of an item of `step` as shapes on devices, to restore to.

        Args:
          step: one of `steps()`.
          item: such as `WEIGHTS["ema"]`.
        """
        return sharding.abstract(self._metadata(step)[item].tree)

    def _metadata(self, step: int) -> Any:
        with orbax_log.quiet(logging.ERROR):  # of items without a handler
            return self._manager.item_metadata(step)

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
        metadata = self._metadata(step)
        for name, target in targets.items():
            difference = pytrees.first_difference(metadata[name].tree, target)
            if difference:
                raise MismatchError(
                    f"the checkpoint of step {step} does not fit the network of the "
                    f"config: {name}, {difference}; choose the network that it was "
                    "trained with"
                )
        arguments = {
            name: ocp.args.StandardRestore(target) for name, target in targets.items()
        }
        restored = self._manager.restore(step, args=ocp.args.Composite(**arguments))
        return {name: restored[name] for name in targets}
