"""The training loop: `train_and_evaluate(config, workdir)`.

The same call starts a run and resumes it. What a run leaves: `checkpoints/`,
`averages/` if it is to, `metrics.jsonl`, `tensorboard/`, `config.json`,
`environment.json`, `samples/`, `loss.png`.
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
    averages,
    checkpoints,
    curves,
    data,
    devices,
    identity,
    metrics,
    pictures,
    probe,
    report,
    sampling,
    step,
)
from experiments.errors import check_bound
from experiments.step import TrainState, train_step
from experiments.trainer import Trainer

__all__ = ["TrainState", "Trainer", "train_and_evaluate", "train_step"]

Hook = Callable[[int, data.Examples, TrainState], None]


def train_and_evaluate(
    config: ml_collections.ConfigDict,
    workdir: str | pathlib.Path,
    *,
    hook: Hook | None = None,
) -> TrainState:
    """Trains to `config.num_steps`, from the newest checkpoint in `workdir` if any.

    Args:
      config: of the experiment.
      workdir: where everything is written.
      hook: called after each step with its number, its batch, and the state.

    Returns:
      The state at the end.

    Raises:
      UsageError: if the config is wrong, or `workdir` holds another run.
      FloatingPointError: if the loss is not finite.
    """
    workdir = pathlib.Path(workdir)
    trainer = Trainer(config)
    (workdir / "samples").mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        stack.enter_context(jax.default_matmul_precision(config.matmul_precision))
        saved = stack.enter_context(
            checkpoints.Checkpoints(workdir, keep=config.checkpoint.keep)
        )
        state = _restore_or_init(trainer, saved)
        first = int(state.step)
        _announce(trainer, state, workdir)
        watch = curves.watch(trainer.identity)
        log = metrics.Log(workdir, first)
        stack.enter_context(contextlib.closing(log))
        meter = report.Meter(first, config.num_steps, config.batch_size)
        stack.enter_context(contextlib.closing(meter))
        stored = stack.enter_context(
            averages.opened(workdir, config.ema, trainer.identity)
        )
        run = _Run(trainer, workdir, saved, stored, log, meter, watch)
        numbers = range(first + 1, config.num_steps + 1)
        for number, batch in zip(numbers, trainer.batches(first), strict=False):
            state = run.step(number, batch, state)
            if hook is not None:
                hook(number, batch, state)
    _conclude(workdir, config.num_steps)
    return state


def _restore_or_init(trainer: Trainer, saved: checkpoints.Checkpoints) -> TrainState:
    """The newest checkpoint if there is one, and if it belongs to this run."""
    steps = saved.steps()
    if not steps:
        return trainer.init()
    newest = steps[-1]
    reachable = newest <= trainer.config.num_steps
    bound = f"at least {newest}, the step of the newest checkpoint"
    check_bound("num_steps", trainer.config.num_steps, reachable, bound)
    found = saved.identity(newest)
    identity.check_format(found)
    identity.check_same(found, trainer.identity, newest)
    items = saved.restore(newest, _items(trainer.abstract_state))
    return TrainState(params=items["params"], ema=items["ema"], **items["train"])


def _items(state: TrainState) -> dict[str, Any]:
    """The state as the items of a checkpoint."""
    train = {name: getattr(state, name) for name in ("step", "opt_state", "sums")}
    if state.moments is not None:
        train["moments"] = state.moments
    if state.profiles:
        train["profiles"] = state.profiles
    return {"params": state.params, "ema": state.ema, "train": train}


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
    if warning := probe.warning(trainer.label_effect(state.params)):
        print(warning, flush=True)
    report.write_json(workdir / "config.json", trainer.identity["config"])
    report.write_json(workdir / "environment.json", report.environment())


class _Run:
    """One process's pass through the steps: what happens beside the update itself."""

    def __init__(
        self,
        trainer: Trainer,
        workdir: pathlib.Path,
        saved: checkpoints.Checkpoints,
        stored: averages.Averages | None,
        log: metrics.Log,
        meter: report.Meter,
        watch: curves.Watch,
    ):
        self._trainer, self._workdir = trainer, workdir
        self._saved, self._stored = saved, stored
        self._log, self._meter, self._watch = log, meter, watch
        self._previous_loss = None

    def step(self, number: int, batch: data.Examples, state: TrainState) -> TrainState:
        """Update `number`, and whatever is due after it."""
        trainer, config = self._trainer, self._trainer.config
        placed = devices.place(trainer.mesh, batch)
        state, loss = trainer.step_fn(state, placed, trainer.train_key)
        jax.block_until_ready(self._previous_loss)  # at most two steps are under way
        self._previous_loss = loss
        self._meter.advance(number)
        row, wall_clock = {}, {}
        if self._due(number, config.log.every):
            row, wall_clock = self._training_row(number, state)
        with self._meter.pause():
            if self._due(number, config.eval.every):
                row |= self._test_row(state)
            if row:
                self._log.write(number, row, wall_clock)
                if note := self._watch.note(number, row):
                    self._meter.say(note)
            if self._due(number, config.samples.every):
                self._draw(number, state)
            if self._stored is not None and self._due(number, config.ema.store_every):
                self._stored.save(number, state.profiles)
            if self._due(number, config.checkpoint.every):
                _check_finite(number, float(loss), state)
                if self._stored is not None:
                    self._stored.wait()
                self._saved.save(number, _items(state), trainer.identity)
        return state

    def _due(self, number: int, every: int) -> bool:
        """Every so many steps, and at the end; never if `every` is 0."""
        return every > 0 and (
            number % every == 0 or number == self._trainer.config.num_steps
        )

    def _training_row(
        self, number: int, state: TrainState
    ) -> tuple[dict[str, Any], dict[str, float]]:
        row = step.averages(state.sums)
        _check_finite(number, row["loss"], state)
        row["learning_rate"] = float(self._trainer.learning_rate(number - 1))
        return row, self._meter.report(number, row["loss"]) | report.memory()

    def _test_row(self, state: TrainState) -> dict[str, Any]:
        row = {}
        for weights, params in (("raw", state.params), ("ema", state.ema)):
            found = self._trainer.evaluate(params)
            row |= {f"test_{name}_{weights}": value for name, value in found.items()}
        return row

    def _draw(self, number: int, state: TrainState) -> None:
        """Writes a picture of samples by class, for raw and averaged weights."""
        model, config = self._trainer.model, self._trainer.config
        labels = sampling.by_class(config.samples.per_class, model.num_classes)
        for name, params in (("raw", state.params), ("ema", state.ema)):
            x = self._trainer.draw_fn(jax.device_get(params), config.seed, labels)
            pictures.write_samples(
                self._workdir / "samples" / f"step{number:07d}_{name}.png",
                model.transform.to_stored(x),
                labels,
                transform=model.transform,
                columns=config.samples.per_class,
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
