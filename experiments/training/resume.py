"""Starts a run: fresh, at its newest checkpoint, or from the weights of another run."""

import contextlib
import pathlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import traverse_util

from diffusionflow import ema
from diffusionflow.networks.embedding import INTERVAL
from experiments.checkpointing import metadata
from experiments.checkpointing.manager import WEIGHTS, Checkpoints
from experiments.runtime import distributed, files, pytrees
from experiments.runtime.errors import UsageError, require
from experiments.training.state import TrainState
from experiments.training.trainer import Trainer


class Source(NamedTuple):
    """The weights from which a new run starts.

    Fields:
      workdir: of the run that has them.
      weights: "ema" or "raw".
    """

    workdir: str | pathlib.Path
    weights: str = "ema"


@contextlib.contextmanager
def alone(workdir: pathlib.Path) -> Iterator[None]:
    """Holds the lock of a workdir, which the system releases when the process ends.

    Of several processes of one run the first holds it.

    Raises:
      UsageError: another run has it.
    """
    with contextlib.ExitStack() as stack:
        taken = False
        if distributed.is_first():
            taken = not files.acquire_lock(stack, workdir / ".lock")
        if distributed.from_first(taken):
            raise UsageError(
                f"another process is training in {workdir}: wait until it has "
                "ended, or choose another --workdir"
            )
        yield


def begin(
    trainer: Trainer,
    saved: Checkpoints,
    source: Source | None = None,
    accepted: Collection[str] = (),
) -> tuple[TrainState, dict[str, Any]]:
    """The state to go on from, and the identity of what will be saved.

    Args:
      trainer: of the run.
      saved: its checkpoints; the newest intact one goes before `source`.
      source: the run from whose weights a new run starts.
      accepted: entries of `schema.ACCEPTABLE` that may differ from the checkpoint's.

    Raises:
      UsageError: no checkpoint is intact, it belongs to another run or to one of
        another source, or the weights of `source` do not fit.
    """
    newest = saved.newest()
    if newest is None:
        return _afresh(trainer, source)
    reachable = newest <= trainer.config.num_steps
    bound = f"at least {newest}, the step of the newest checkpoint"
    require("num_steps", trainer.config.num_steps, reachable, bound)
    found = saved.identity(newest)
    metadata.check_format(found)
    before = {"history": found.get("history", [])}
    changed = metadata.check_compatible(
        found, trainer.identity | before, newest, accepted
    )
    origin = found.get("init_from")
    _check_source(source, origin)
    state = _restored(trainer, saved, newest, found["config"])
    meaning = trainer.identity | ({"init_from": origin} if origin else {})
    if rows := metadata.history(found, trainer.identity, newest, changed):
        meaning["history"] = rows
    if distributed.is_first():
        for change in changed:
            print(f"note: accepted after step {newest:,}: {change}", flush=True)
    return state, meaning


def _restored(
    trainer: Trainer, saved: Checkpoints, step: int, before: Mapping[str, Any]
) -> TrainState:
    """The state of a checkpoint, for a run whose log or batch may be of other size.

    Args:
      trainer: of the run.
      saved: its checkpoints.
      step: of the one.
      before: its config.
    """
    target, count = trainer.abstract_state, before["batch_size"]
    resized = lambda leaf: jax.ShapeDtypeStruct(
        (count, *leaf.shape[1:]), leaf.dtype, sharding=leaf.sharding
    )
    faults = target.faults
    faults = faults._replace(t=resized(faults.t), examples=resized(faults.examples))
    restored = saved.restore(step, target._replace(faults=faults).checkpoint_items())
    state = TrainState(
        params=restored["params"], ema=restored["ema"], **restored["train"]
    )
    every = trainer.config.log.every
    logged = step % before["log"]["every"] == 0 and step % every != 0
    zeros = lambda like: jax.device_put(np.zeros(like.shape, like.dtype), like.sharding)
    cleared: tuple[str, ...] = ()
    if logged:  # by the old interval, and not by the new one, which would clear them
        state = state._replace(sums=jax.tree.map(zeros, target.sums))
        cleared = "recent", "first"
    if count != trainer.config.batch_size:
        cleared = "recent", "first", "t", "examples"
    fresh = {name: zeros(getattr(target.faults, name)) for name in cleared}
    return state._replace(faults=state.faults._replace(**fresh))


def _afresh(
    trainer: Trainer, source: Source | None
) -> tuple[TrainState, dict[str, Any]]:
    """Step 0; the weights of `source`, if any, with an optimizer of their own."""
    state = trainer.init()
    section = trainer.config.distillation
    if section.teacher:
        if source is not None:
            raise UsageError(
                f"--init_from with distillation.teacher={section.teacher}: a run "
                "starts from the weights of its teacher; leave --init_from out"
            )
        source = Source(section.teacher, section.weights)
    if source is None:
        return state, trainer.identity
    item = WEIGHTS[source.weights]
    with Checkpoints(pathlib.Path(source.workdir), read_only=True) as saved:
        step = saved.newest()
        if step is None:
            raise UsageError(
                f"--init_from: {saved.directory} holds no checkpoint yet: wait until "
                "that run has saved one, or name another"
            )
        found = saved.identity(step)
        metadata.check_format(found)
        target = trainer.abstract_state.params
        fresh = _new_intervals(saved.abstract(step, item), target)
        if section.teacher:
            _check_teacher(found, trainer.identity, saved.directory)
        _report_differences(found, trainer.identity, saved.directory, fresh)
        params = saved.restore(step, {item: _without(target, fresh)})[item]
        params = _completed(params, state.params, fresh)
    state = state._replace(
        params=params,
        ema=ema.init(params),
        opt_state=trainer.recipe.optimizer.init(params),
        teacher=ema.init(params) if trainer.recipe.has_teacher else None,
    )
    place = lambda leaf, like: jax.device_put(leaf, like.sharding)
    state = jax.tree.map(place, state, trainer.abstract_state)
    return state, trainer.identity | {"init_from": _origin(source) | {"step": step}}


# in what a student may differ from its teacher; its other weights mean the same
STUDENTS = (
    "objective.weighting",
    "objective.times",
    "objective.proposal",
    "network.two_times",
    "network.dropout",
    "network.dtype",
)


def _check_teacher(
    there: Mapping[str, Any], here: Mapping[str, Any], directory: pathlib.Path
) -> None:
    """Refuses a teacher whose predictions are of another kind than the student's."""
    lines = _differences(there, here)
    wrong = [line for line in lines if line.partition(":")[0] not in STUDENTS]
    if wrong:
        listed = "\n  ".join(wrong)
        raise UsageError(
            f"distillation.teacher: the network in {directory} is of another kind than "
            f"the student's:\n  {listed}\nchoose the student's as the teacher's, as "
            "experiments.distill does"
        )


def _differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """In what the meaning of weights differs, a line per entry."""
    names = ("conventions", "objective", "network", "data")
    one, other = ({name: found[name] for name in names} for found in (there, here))
    one["sigma_data"] = there["config"]["sigma_data"]
    other["sigma_data"] = here["config"]["sigma_data"]
    return metadata.diff(one, other)


def _new_intervals(there: Any, here: Any) -> list[str]:
    """Paths of the maps of a second time in `here`, where `there` is of one time.

    They add nothing at equal times, which is all that `there` was trained on.
    """
    lacking = pytrees.named_leaves(here).keys() - pytrees.named_leaves(there).keys()
    return sorted(path for path in lacking if INTERVAL in path.split("/"))


def _without(params: Any, paths: Sequence[str]) -> Any:
    """Parameters, nested dicts, without the leaves of `paths`."""
    if not paths:
        return params
    flat = traverse_util.flatten_dict(params, sep="/")
    kept = {path: leaf for path, leaf in flat.items() if path not in paths}
    return traverse_util.unflatten_dict(kept, sep="/")


def _completed(params: Any, fresh: Any, paths: Sequence[str]) -> Any:
    """`params` with the leaves of `paths` of `fresh`."""
    if not paths:
        return params
    flat = traverse_util.flatten_dict(params, sep="/")
    other = traverse_util.flatten_dict(fresh, sep="/")
    added = {path: other[path] for path in paths}
    return traverse_util.unflatten_dict(flat | added, sep="/")


def _report_differences(
    there: Mapping[str, Any],
    here: Mapping[str, Any],
    directory: pathlib.Path,
    fresh: Sequence[str],
) -> None:
    """Prints in what the weights' meaning differs, and refuses other conventions.

    Args:
      there: identity of the run that has the weights.
      here: identity of the new run.
      directory: where the weights are.
      fresh: paths of the leaves that they lack.
    """
    lines = _differences(there, here)
    if any(line.startswith("conventions") for line in lines):
        raise UsageError("\n  ".join([f"--init_from: {directory}:", *lines]))
    lines += [f"no {path}, which keeps its fresh value" for path in fresh]
    if lines and distributed.is_first():
        listed = "\n  ".join(lines)
        print(f"note: the weights of {directory} had\n  {listed}", flush=True)


def _origin(source: Source) -> dict[str, Any]:
    """What is recorded of a source."""
    path = pathlib.Path(source.workdir).absolute()
    return {"workdir": str(path), "weights": source.weights}


def _check_source(source: Source | None, origin: dict[str, Any] | None) -> None:
    """Refuses to resume a run that did not start from `source`."""
    if source is None:
        return
    wanted = _origin(source)
    if origin is None or any(origin.get(name) != wanted[name] for name in wanted):
        there = "fresh weights" if origin is None else f"{origin}"
        raise UsageError(
            f"--init_from: the run that is there started from {there}, not from "
            f"{wanted}; leave --init_from out to resume it, or choose another --workdir"
        )
