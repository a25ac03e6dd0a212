"""Stores power-profile EMAs while training and reconstructs others afterwards.

`averages/STEP/` of a run holds one item for each width of `ema.sigma_rel` and the
identity of the run. All are kept: an average of any width at any of these steps is a
weighted sum of those that came before it.
"""

import contextlib
import pathlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from diffusionflow import ema
from experiments.checkpointing import integrity, manager, metadata
from experiments.runtime import distributed
from experiments.runtime.errors import UsageError, naming

DIRECTORY = "averages"


class Averages:
    """Stores the averages of a run.

    Args:
      saved: the directory.
      sigma_rel: the widths, in the order of the state's `profiles`.
      identity: of the run, with its origin.
    """

    def __init__(
        self,
        saved: manager.Checkpoints,
        sigma_rel: Sequence[float],
        identity: Mapping[str, Any],
    ):
        self._saved, self._identity = saved, {"init_from": None} | dict(identity)
        self._names = [_item(width) for width in sigma_rel]

    def save(self, step: int, profiles: Sequence[Any], num_updates: int) -> None:
        """Starts to store the averages after `step`, unless an earlier attempt did.

        Args:
          step: after which.
          profiles: the averages.
          num_updates: steps up to `step` that made an update.
        """
        if not distributed.from_first(step in self._saved.steps()):
            items = dict(zip(self._names, profiles, strict=True))
            scores = {"num_updates": num_updates}
            self._saved.save(step, items, self._identity, scores)

    def wait(self) -> None:
        """Waits until they are on disk.

        Before a checkpoint of the same step or a later one, which a resumed run would
        start from and not store them again.
        """
        self._saved.wait()


@contextlib.contextmanager
def opened(
    workdir: pathlib.Path, section: Mapping[str, Any], current: Mapping[str, Any]
) -> Iterator[Averages | None]:
    """Opens the averages of a run that stores some, for writing; else gives None.

    Args:
      workdir: of the run.
      section: `ema` of its config.
      current: its identity, with its origin.

    Raises:
      UsageError: those that are there belong to another run or to another start of this
        one, or none is intact.
    """
    widths = section["sigma_rel"]
    if not widths:
        yield None
        return
    with _directory(workdir, widths, read_only=False) as saved:
        step = saved.newest()
        if step is not None:
            _check_same(saved, step, current)
        yield Averages(saved, widths, current)


class Reconstruction(NamedTuple):
    """A reconstructed average of the weights.

    Fields:
      params: pytree of float32 arrays.
      error: of its profile, see `diffusionflow.ema.Combination`.
    """

    params: Any
    error: float


def reconstruct(
    workdir: pathlib.Path,
    sigma_rel: float,
    *,
    step: int,
    found: Mapping[str, Any],
    target: Any,
) -> Reconstruction:
    """Reconstructs the average of a width that need not have been tracked.

    Args:
      workdir: of the run.
      sigma_rel: the width, in (0, 1 / sqrt(12)].
      step: after which; one at which averages were stored.
      found: identity of the run.
      target: pytree of `jax.ShapeDtypeStruct` with shardings, of the parameters.

    Raises:
      UsageError: the width is out of bounds, nothing was stored that it could be
        reconstructed from, or what was stored is corrupted.
    """
    with naming("sigma_rel"):
        gamma = ema.gamma_of(sigma_rel)
    widths = found["config"].get("ema", {}).get("sigma_rel", ())
    if not widths:
        raise UsageError(
            f"sigma_rel={sigma_rel}: the run in {workdir} stored no averages of power "
            "profiles; train with --config.ema.sigma_rel=0.05,0.1 and "
            "--config.ema.store_every"
        )
    with _directory(workdir, widths, read_only=True) as saved:
        steps = [number for number in saved.steps() if number <= step]
        if step not in steps:
            raise UsageError(
                f"sigma_rel={sigma_rel} at step {step}: averages were stored at the "
                f"steps {saved.steps()}; choose one of them with --step"
            )
        steps = _intact(saved, steps)
        stored = [(number, width) for number in steps for width in widths]
        updates = {number: saved.scores(number)["num_updates"] for number in steps}
        with naming(f"sigma_rel={sigma_rel} at step {step}"):
            weights, error = ema.combination(
                [
                    ema.Profile(updates[number], ema.gamma_of(width))
                    for number, width in stored
                ],
                ema.Profile(updates[step], gamma),
            )
        for number in steps:
            _check_same(saved, number, found)

        def read(number: int, width: float) -> Any:
            return saved.restore(number, {_item(width): target})[_item(width)]

        averages = (read(number, width) for number, width in stored)
        return Reconstruction(ema.combine(weights, averages), error)


def _directory(
    workdir: pathlib.Path, widths: Sequence[float], *, read_only: bool
) -> manager.Checkpoints:
    return manager.Checkpoints(
        workdir,
        keep=None,
        read_only=read_only,
        directory=DIRECTORY,
        items=tuple(map(_item, widths)),
    )


def _item(sigma_rel: float) -> str:
    return f"sigma_rel_{float(sigma_rel)}"


def _intact(saved: manager.Checkpoints, steps: Sequence[int]) -> list[int]:
    """Selects the steps that are intact, with a warning for each other."""
    saved.check(steps[-1])
    intact = []
    for step in steps:
        path = saved.directory / str(step)
        fault = integrity.find_corruption(path)
        if fault is None:
            intact.append(step)
            continue
        text = f"warning: averages {path} are corrupted: {fault}; not used"
        print(text, file=sys.stderr, flush=True)
    return intact


def _check_same(
    saved: manager.Checkpoints, step: int, current: Mapping[str, Any]
) -> None:
    """Refuses averages of another run, and those of another start of this one."""
    stored = saved.identity(step)
    if changed := metadata.unrecorded(stored, current, step):
        listed = "\n  ".join(map(str, changed))
        raise UsageError(
            f"the averages of step {step} in {saved.directory} are of other settings "
            f"than the run has now:\n  {listed}\nmove {saved.directory / str(step)} "
            "away, with those of other steps after the change, or choose another "
            "--workdir"
        )
    here = current.get("init_from")
    there = stored.get("init_from", here)  # absent in older ones
    if there != here:
        raise UsageError(
            f"the averages of step {step} in {saved.directory} are of a start from "
            f"{there or 'fresh weights'}, and this run started from "
            f"{here or 'fresh weights'}: move them away, or choose another --workdir"
        )
