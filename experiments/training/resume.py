"""Starts a run: fresh, at its newest checkpoint, or from weights that there are."""

import contextlib
import pathlib
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from diffusionflow import ema
from experiments.checkpointing import metadata
from experiments.checkpointing.manager import Checkpoints
from experiments.runtime import distributed, files
from experiments.runtime.errors import UsageError, require
from experiments.training import initial_weights
from experiments.training.initial_weights import Source
from experiments.training.state import TrainState
from experiments.training.trainer import Trainer


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
    """Restores or initializes the state to train from, and the identity to save.

    Args:
      trainer: of the run.
      saved: its checkpoints; the newest intact one goes before `source`.
      source: the weights from which a new run starts.
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
    """Restores the state of a checkpoint; the run's log or batch may be of other size.

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
    """Starts at step 0, from the weights of `source` if any, with a new optimizer."""
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
    target = trainer.abstract_state.params
    new = initial_weights.NewRun(trainer.model, trainer.identity, target, state.params)
    params, origin = initial_weights.read(new, source)
    state = state._replace(
        params=params,
        ema=ema.init(params),
        opt_state=trainer.recipe.optimizer.init(params),
        teacher=ema.init(params) if trainer.recipe.has_teacher else None,
    )
    place = lambda leaf, like: jax.device_put(leaf, like.sharding)
    state = jax.tree.map(place, state, trainer.abstract_state)
    return state, trainer.identity | {"init_from": origin}


def _check_source(source: Source | None, origin: dict[str, Any] | None) -> None:
    """Refuses to resume a run that did not start from `source`."""
    if source is None:
        return
    wanted = initial_weights.origin(source, origin)
    if origin is None or any(origin.get(name) != wanted[name] for name in wanted):
        there = "fresh weights" if origin is None else f"{origin}"
        raise UsageError(
            f"--init_from: the run that is there started from {there}, not from "
            f"{wanted}; leave --init_from out to resume it, or choose another --workdir"
        )
