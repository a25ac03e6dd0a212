"""Training loop: one optimizer step, and its periodic actions.

With several processes every one of them calls the same methods, as updates, evaluation
and saves are made together; the first one alone writes logs and pictures.
"""

import contextlib
import pathlib
import time
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.checkpointing import manager, posthoc_ema, retention
from experiments.data.base import Examples
from experiments.runtime import distributed, environment, files, progress, sharding
from experiments.runtime.errors import Diverged
from experiments.runtime.signals import Stop, Stopped
from experiments.training import (
    metrics_log,
    nonfinite,
    reference_curves,
    running_metrics,
)
from experiments.training.state import TrainState
from experiments.training.trainer import Trainer
from experiments.visualization import sample_images


class Sinks(NamedTuple):
    """Output writers of a run.

    Fields:
      saved: the checkpoints.
      stored: averages of power profiles; None where there are none.
      log: of the first process; None in the others.
      progress_bar: shows the progress.
      watch: of the reference curve.
    """

    saved: manager.Checkpoints
    stored: posthoc_ema.Averages | None
    log: metrics_log.MetricsWriter | None
    progress_bar: progress.TrainingProgress
    watch: reference_curves.Watch


def _check_finite(number: int, state: TrainState) -> None:
    """Raises `Diverged` where the state after step `number` is not finite."""
    bad = nonfinite.not_finite(state.checkpoint_items())
    if bad:
        raise Diverged(
            f"step {number:,} left values that are not finite in {', '.join(bad)}: "
            "this state was not saved. Start again in another --workdir with a lower "
            "optimizer.learning_rate or optimizer.clip_norm"
        )


class TrainLoop:
    """Makes the steps of a run and the actions due after each.

    Args:
      trainer: built from the config.
      workdir: where pictures are written.
      sinks: the other outputs.
      meaning: the identity that is saved with checkpoints.
      stop: whether a signal has come.
    """

    def __init__(
        self,
        trainer: Trainer,
        workdir: pathlib.Path,
        sinks: Sinks,
        meaning: dict[str, Any],
        stop: Stop,
    ):
        self._trainer, self._workdir, self._sinks = trainer, workdir, sinks
        self._meaning, self._stop = meaning, stop
        self._previous_loss = None
        self._say_fn, self._since = sinks.progress_bar.say, time.perf_counter()
        self._machine = environment.machine()

    def run_missed_actions(self, number: int, state: TrainState) -> None:
        """Runs the periodic actions of the restored step that a stop skipped.

        Raises:
          Stopped: a signal has come.
        """
        try:
            distributed.check(self._stop)
            if number and distributed.from_first(self._behind(number)):
                row = self._training_row(number, state) | self._test_row(number, state)
                self._write(number, row)
            written = all(map(pathlib.Path.exists, self._pictures(number)))
            if number and not distributed.from_first(written):
                self._draw(number, state)
        except Stopped as stopped:
            stopped.kept = self._kept(number)
            raise

    def step(self, number: int, batch: Examples, state: TrainState) -> TrainState:
        """Makes update `number` and runs the actions that are due after it.

        Raises:
          Stopped: a signal has come; the update is saved, unless saves are never due.
          Diverged: too many steps in a row were not finite.
        """
        trainer = self._trainer
        placed = sharding.place(trainer.mesh, batch)
        if self._begins_stage(number):
            state = trainer.begin_stage_fn(state)
        with self._first_time("compiling the training step"):
            state, loss = trainer.step_fn(state, placed, trainer.train_key)
        jax.block_until_ready(self._previous_loss)  # at most two steps are under way
        self._previous_loss, self._since = loss, time.perf_counter()
        self._sinks.progress_bar.advance(number)
        row = self._training_row(number, state)
        wall_clock: dict[str, Any] = {}
        if row:
            wall_clock |= self._sinks.progress_bar.report(number, row["loss"])
            wall_clock |= environment.memory() | {"machine": self._machine}
        with self._sinks.progress_bar.pause():
            try:
                row |= self._test_row(number, state)
                self._write(number, row, wall_clock)
                if wall_clock:
                    self._check_going(number, state)
                self._draw(number, state)
                distributed.check(self._stop)
            except Stopped as stopped:
                self._save_due(number, state, row, anyway=True)
                stopped.kept = self._kept(number)
                raise
            self._save_due(number, state, row, anyway=False)
        return state

    def _begins_stage(self, number: int) -> bool:
        """Returns whether the averaged student becomes teacher before step `number`."""
        return number > 1 and (number - 1) % self._trainer.recipe.stage_steps == 0

    def _announced(self, what: str) -> contextlib.AbstractContextManager:
        """Announces `what` where the actions of a step have taken long until then."""
        return progress.announced(what, self._say_fn, since=self._since)

    def _first_time(self, what: str) -> contextlib.AbstractContextManager:
        """Announces `what` at the first step alone."""
        if self._previous_loss is None:
            self._since = time.perf_counter()
            return self._announced(what)
        return contextlib.nullcontext()

    def _save_due(
        self, number: int, state: TrainState, row: dict[str, Any], *, anyway: bool
    ) -> None:
        """Stores averages and saves the state where due; the state `anyway` at a stop.

        Raises:
          Diverged: the state is not finite, or the run no longer moves.
        """
        section, stored = self._trainer.config.checkpoint, self._sinks.stored
        store = stored is not None and self._due(
            number, self._trainer.config.ema.store_every
        )
        save = self._due(number, section.every) or (anyway and section.every > 0)
        if not (store or save):
            return
        self._check_going(number, state)
        _check_finite(number, state)
        if store:
            stored.save(number, state.profiles, number - int(state.faults.count))
        if save:
            self._save(number, state, row)
        if anyway:
            self._sinks.saved.wait()

    def _behind(self, number: int) -> bool:
        """Returns whether the log ends before `number`."""
        return self._sinks.log is not None and self._sinks.log.last < number

    def _due(self, number: int, every: int) -> bool:
        """Returns whether an action is due: every `every` steps and at the end.

        An action with `every` 0 never is.
        """
        return every > 0 and (
            number % every == 0 or number == self._trainer.config.num_steps
        )

    def _training_row(self, number: int, state: TrainState) -> dict[str, Any]:
        if not self._due(number, self._trainer.config.log.every):
            return {}
        row, skipped = (
            running_metrics.averages(state.sums),
            nonfinite.row(state.faults, state.params),
        )
        count = int(state.faults.count)
        if skipped:
            self._sinks.progress_bar.say(nonfinite.warning(skipped, count))
        made = (number - 1 - count) % self._trainer.recipe.stage_steps
        row["learning_rate"] = float(self._trainer.experiment.learning_rate(made))
        return row | skipped

    def _test_row(self, number: int, state: TrainState) -> dict[str, Any]:
        due = self._due(number, self._trainer.config.eval.every)
        if not (due and self._trainer.model.predicts_at_one_time):
            return {}
        check_fn = lambda: distributed.check(self._stop)
        row: dict[str, Any] = {}
        with self._announced("evaluating"):
            for weights, params in (("raw", state.params), ("ema", state.ema)):
                found = self._trainer.evaluate(params, check_fn)
                row |= {f"test_{name}_{weights}": found[name] for name in found}
        return row

    def _write(
        self,
        number: int,
        row: dict[str, Any],
        wall_clock: dict[str, Any] | None = None,
    ) -> None:
        if row and self._sinks.log is not None:
            self._sinks.log.write(number, row, wall_clock or {})
            for callback in self._trainer.experiment.callbacks:
                callback(number, row)
            if note := self._sinks.watch.note(number, row):
                self._sinks.progress_bar.say(note)

    def _pictures(self, number: int) -> list[pathlib.Path]:
        """Lists the pictures due after a step: of raw and of averaged weights."""
        if not self._due(number, self._trainer.config.samples.every):
            return []
        if not sample_images.num_shown(self._trainer.model.event_shape):
            return []
        folder = self._workdir / "samples"
        return [folder / f"step{number:07d}_{name}.png" for name in ("raw", "ema")]

    def _draw(self, number: int, state: TrainState) -> None:
        """Samples and writes the pictures that are due."""
        if pictures := self._pictures(number):
            with self._announced("sampling"):
                self._write_pictures(pictures, state)

    def _write_pictures(self, paths: list[pathlib.Path], state: TrainState) -> None:
        """Writes pictures of samples, one class a row."""
        model, config = self._trainer.model, self._trainer.config
        pictured = self._trainer.pictured
        weights = (state.params, state.ema)
        for path, params in zip(paths, weights, strict=True):
            distributed.check(self._stop)
            params = self._trainer.gather(params)
            if not distributed.is_first():
                continue
            x = self._trainer.sample_fn(
                jax.device_get(params),
                config.seed,
                pictured,
                advance=lambda count: distributed.check_alone(self._stop),
            )
            if not (finite := np.isfinite(x).reshape(len(x), -1).all(1)).all():
                print(
                    f"warning: no {path.name}: {(~finite).sum():,} of {len(x):,} "
                    "samples are not finite",
                    flush=True,
                )
                continue
            sample_images.write_samples(
                path,
                model.transform.to_stored(x),
                pictured.labels,
                transform=model.transform,
                columns=config.samples.per_class,
            )

    def _save(self, number: int, state: TrainState, row: dict[str, Any]) -> None:
        if self._sinks.stored is not None:
            self._sinks.stored.wait()
        if self._sinks.log is not None:
            self._sinks.log.sync()
        ranking = retention.ranking({k: files.plain(v) for k, v in row.items()})
        self._sinks.saved.save(number, state.checkpoint_items(), self._meaning, ranking)

    def _check_going(self, number: int, state: TrainState) -> None:
        """Raises `Diverged` where too many steps in a row made no update."""
        limit = self._trainer.config.optimizer.nonfinite_limit
        if state.faults.stopped(limit):
            steps = self._sinks.saved.steps()
            newest = f"the newest is that of step {steps[-1]}" if steps else "none"
            raise Diverged(
                f"{limit} steps in a row (optimizer.nonfinite_limit) had a loss or a "
                f"gradient that is not finite, noticed at step {number:,}; checkpoints "
                f"from before: {newest}. Start again in another --workdir with a lower "
                "optimizer.learning_rate or optimizer.clip_norm"
            )

    def _kept(self, number: int) -> str:
        """Says in words what a stop after step `number` leaves."""
        config = self._trainer.config
        if not number:
            return "no step was made"
        if not config.checkpoint.every:
            return "nothing was saved, as checkpoint.every=0 says"
        return (
            f"step {number:,} of {config.num_steps:,} is saved in "
            f"{self._sinks.saved.directory}; the same command goes on"
        )
