"""The training loop: `train_and_evaluate(config, workdir)`.

The same call starts a run and resumes it. What a run leaves: `checkpoints/`,
`metrics.jsonl`, `tensorboard/`, `config.json`, `environment.json`, `samples/`,
`loss.png`.
"""

import contextlib
import math
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import ml_collections
import optax

from experiments import (
    checkpoints,
    data,
    devices,
    metrics,
    pictures,
    report,
    retention,
    sampling,
    start,
    step,
)
from experiments.errors import Stop, Stopped, noting
from experiments.step import TrainState, train_step
from experiments.trainer import Trainer

__all__ = ["TrainState", "Trainer", "train_and_evaluate", "train_step"]

Hook = Callable[[int, data.Examples, TrainState], None]


def train_and_evaluate(
    config: ml_collections.ConfigDict,
    workdir: str | pathlib.Path,
    *,
    hook: Hook | None = None,
    source: start.Source | None = None,
) -> TrainState:
    """Trains to `config.num_steps`, from the newest checkpoint in `workdir` if any.

    Args:
      config: of the experiment.
      workdir: where everything is written.
      hook: called after each step with its number, its batch, and the state.
      source: the run from whose weights a new one starts.

    Returns:
      The state at the end.

    Raises:
      UsageError: if the config is wrong, or `workdir` holds another run or no whole
        checkpoint.
      FloatingPointError: if the loss is not finite.
      SaveError: if a checkpoint could not be written.
      Stopped: at SIGTERM or Ctrl-C, when the step under way is done and saved.
    """
    workdir = pathlib.Path(workdir)
    with contextlib.ExitStack() as stack:
        stop = stack.enter_context(noting())
        trainer = Trainer(config)
        (workdir / "samples").mkdir(parents=True, exist_ok=True)
        stack.enter_context(jax.default_matmul_precision(config.matmul_precision))
        keep = config.checkpoint
        keep = retention.Keep(keep.keep, keep.keep_best, keep.metric)
        saved = stack.enter_context(checkpoints.Checkpoints(workdir, keep=keep))
        state, meaning = start.begin(trainer, saved, source)
        first = int(state.step)
        _announce(trainer, state, workdir)
        log = metrics.Log(workdir, first)
        stack.enter_context(contextlib.closing(log))
        meter = report.Meter(first, config.num_steps, config.batch_size)
        stack.enter_context(contextlib.closing(meter))
        run = _Run(trainer, workdir, saved, meaning, log, meter, stop)
        run.make_up(first, state)
        numbers = range(first + 1, config.num_steps + 1)
        for number, batch in zip(numbers, trainer.batches(first), strict=False):
            state = run.step(number, batch, state)
            if hook is not None:
                hook(number, batch, state)
    _conclude(workdir, config.num_steps)
    return state


def _announce(trainer: Trainer, state: TrainState, workdir: pathlib.Path) -> None:
    """Prints the banner; writes `config.json` and `environment.json`."""
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    text = report.banner(
        num_parameters=parameters,
        objective=trainer.config.objective.to_dict(),
        step=int(state.step),
        num_steps=trainer.config.num_steps,
        workdir=workdir,
    )
    print(text, flush=True)
    report.write_json(workdir / "config.json", trainer.identity["config"])
    report.write_json(workdir / "environment.json", report.environment())


class _Run:
    """One process's pass through the steps: what happens beside the update itself."""

    def __init__(
        self,
        trainer: Trainer,
        workdir: pathlib.Path,
        saved: checkpoints.Checkpoints,
        meaning: dict[str, Any],
        log: metrics.Log,
        meter: report.Meter,
        stop: Stop,
    ):
        self._trainer, self._workdir = trainer, workdir
        self._saved, self._meaning = saved, meaning
        self._log, self._meter, self._stop = log, meter, stop
        self._previous_loss = None

    def make_up(self, number: int, state: TrainState) -> None:
        """Does what was due after the restored step, where a stop left it out."""
        try:
            self._stop.check()
            if number and self._log.last < number:
                row = self._training_row(number, state) | self._test_row(number, state)
                if row:
                    self._log.write(number, row, {})
            if number and not all(map(pathlib.Path.exists, self._pictures(number))):
                self._draw(number, state)
        except Stopped as stopped:
            stopped.kept = self._kept(number)
            raise

    def step(self, number: int, batch: data.Examples, state: TrainState) -> TrainState:
        """Update `number`, and whatever is due after it.

        Raises:
          Stopped: a signal has come; the update is saved, unless saves are never due.
        """
        trainer, config = self._trainer, self._trainer.config
        placed = devices.place(trainer.mesh, batch)
        state, loss = trainer.step_fn(state, placed, trainer.train_key)
        jax.block_until_ready(self._previous_loss)  # at most two steps are under way
        self._previous_loss = loss
        self._meter.advance(number)
        row, wall_clock = self._training_row(number, state), {}
        if row:
            wall_clock = self._meter.report(number, row["loss"])
        with self._meter.pause():
            try:
                row |= self._test_row(number, state)
                if row:
                    self._log.write(number, row, wall_clock)
                self._draw(number, state)
                self._stop.check()
            except Stopped as stopped:
                if config.checkpoint.every:
                    self._save(number, loss, state, row)
                    self._saved.wait()
                stopped.kept = self._kept(number)
                raise
            if self._due(number, config.checkpoint.every):
                self._save(number, loss, state, row)
        return state

    def _due(self, number: int, every: int) -> bool:
        """Every so many steps, and at the end; never if `every` is 0."""
        return every > 0 and (
            number % every == 0 or number == self._trainer.config.num_steps
        )

    def _training_row(self, number: int, state: TrainState) -> dict[str, Any]:
        if not self._due(number, self._trainer.config.log.every):
            return {}
        row = step.averages(state.sums)
        _check_finite(number, row["loss"], state)
        row["learning_rate"] = float(self._trainer.learning_rate(number - 1))
        return row

    def _test_row(self, number: int, state: TrainState) -> dict[str, Any]:
        if not self._due(number, self._trainer.config.eval.every):
            return {}
        evaluate = self._trainer.evaluate
        return {
            "test_loss_raw": evaluate(state.params, self._stop.check),
            "test_loss_ema": evaluate(state.ema, self._stop.check),
        }

    def _pictures(self, number: int) -> list[pathlib.Path]:
        """The pictures that are due after a step: of raw and of averaged weights."""
        if not self._due(number, self._trainer.config.samples.every):
            return []
        folder = self._workdir / "samples"
        return [folder / f"step{number:07d}_{name}.png" for name in ("raw", "ema")]

    def _draw(self, number: int, state: TrainState) -> None:
        """Writes the pictures that are due: samples, one class a row."""
        model, config = self._trainer.model, self._trainer.config
        labels = sampling.by_class(config.samples.per_class, model.num_classes)
        weights = (state.params, state.ema)
        for path, params in zip(self._pictures(number), weights, strict=False):
            x = self._trainer.draw_fn(
                jax.device_get(params),
                config.seed,
                labels,
                advance=lambda count: self._stop.check(),
            )
            pictures.write_samples(
                path,
                model.transform.to_stored(x),
                labels,
                transform=model.transform,
                columns=config.samples.per_class,
            )

    def _save(
        self, number: int, loss: jax.Array, state: TrainState, row: dict[str, Any]
    ) -> None:
        _check_finite(number, float(loss), state)
        ranking = {
            name: metrics.plain(row[name]) for name in retention.METRICS if name in row
        }
        self._saved.save(number, start.items(state), self._meaning, ranking)

    def _kept(self, number: int) -> str:
        """What a stop after step `number` leaves, in words."""
        config = self._trainer.config
        if not number:
            return "no step was made"
        if not config.checkpoint.every:
            return "nothing was saved, as checkpoint.every=0 says"
        return (
            f"step {number:,} of {config.num_steps:,} is saved in "
            f"{self._saved.directory}; the same command goes on"
        )


def _check_finite(number: int, loss: float, state: TrainState) -> None:
    """Raises where the loss, or what the update made of the parameters, diverged."""
    norm = float(optax.tree.norm(state.params))
    if not (math.isfinite(loss) and math.isfinite(norm)):
        raise FloatingPointError(
            f"loss {loss} and norm of the parameters {norm} at step {number}: this "
            "state was not saved. Start again in another --workdir with a lower "
            "optimizer.learning_rate or optimizer.clip_norm"
        )


def _conclude(workdir: pathlib.Path, num_steps: int) -> None:
    """Draws the loss curve; says what was reached and where the files are."""
    rows = metrics.read(workdir / metrics.FILE_NAME)
    pictures.write_loss_curve(workdir / "loss.png", rows)
    last = {}
    for row in rows:
        last |= {name: value for name, value in row.items() if value is not None}
    reached = [
        f"{name.replace('_', ' ')} {last[name]:.4f}"
        for name in pictures.LOSSES
        if name in last
    ]
    print(
        f"done: step {num_steps:,}, {', '.join(reached)}; checkpoints, metrics.jsonl, "
        f"loss.png and samples/ are in {workdir}",
        flush=True,
    )
