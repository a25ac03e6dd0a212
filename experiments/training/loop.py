"""The training loop: `train_and_evaluate(config, workdir)`.

The same call starts a run and resumes it. What a run leaves: `checkpoints/`,
`averages/` if it is to, `metrics.jsonl`, `tensorboard/`, `config.json`,
`environment.json`, `samples/`, `loss.png`, copies in `modules/` and `grids/`.
"""

import contextlib
import functools
import pathlib
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import jax
from ml_collections import ConfigDict
from rich.console import Console

from experiments.checkpointing import manager, metadata, posthoc_ema, retention
from experiments.config import external, grid_files
from experiments.config.experiment import Experiment
from experiments.data.base import Examples
from experiments.runtime import distributed, environment, files, progress
from experiments.runtime.errors import Diverged
from experiments.runtime.signals import noting
from experiments.training import (
    console,
    initial_weights,
    label_probe,
    metrics_log,
    reference_curves,
    resume,
)
from experiments.training.actions import Sinks, TrainLoop
from experiments.training.state import TrainState
from experiments.training.step import train_step
from experiments.training.trainer import Trainer
from experiments.visualization import sample_images

__all__ = ["TrainState", "Trainer", "train_and_evaluate", "train_step"]

Hook = Callable[[int, Examples, TrainState], None]


def train_and_evaluate(
    described: ConfigDict | Experiment,
    workdir: str | pathlib.Path,
    *,
    hook: Hook | None = None,
    source: initial_weights.Source | None = None,
    accepted: Collection[str] = (),
) -> TrainState:
    """Trains to `num_steps`, from the newest checkpoint in `workdir` if any.

    Args:
      described: the config of the experiment, or what `experiment.from_config` made of
        it.
      workdir: where everything is written.
      hook: called after each step with its number, its batch, and the state.
      source: the weights from which a new run starts.
      accepted: entries that may differ from the checkpoint's, of `schema.ACCEPTABLE`.

    Returns:
      The state at the end.

    Raises:
      UsageError: if the config is wrong, or `workdir` holds another run or no intact
        checkpoint.
      Diverged: after `optimizer.nonfinite_limit` steps in a row that were not finite,
        or if the state to be saved is not.
      SaveError: if a checkpoint could not be written.
      Stopped: at SIGTERM or Ctrl-C, when the step under way is done and saved.
    """
    workdir = pathlib.Path(workdir)
    with contextlib.ExitStack() as stack:
        stop = stack.enter_context(noting())
        external.search(workdir)
        with progress.announced("reading the data"):
            trainer = Trainer(described, workdir)
        config = trainer.config
        (workdir / "samples").mkdir(parents=True, exist_ok=True)
        stack.enter_context(resume.alone(workdir))
        stack.enter_context(jax.default_matmul_precision(config.matmul_precision))
        keep = config.checkpoint
        keep = retention.Keep(keep.keep, keep.keep_best, keep.metric)
        later_fn = functools.partial(
            metrics_log.rankings, workdir / metrics_log.FILE_NAME
        )
        saved = stack.enter_context(
            manager.Checkpoints(workdir, keep=keep, later_fn=later_fn)
        )
        with progress.announced("initializing or restoring the state"):
            state, meaning = resume.begin(trainer, saved, source, accepted)
        first = int(state.step)
        log = None
        with progress.announced("compiling the evaluation"):
            effects = trainer.condition_effects(state.params)
        if distributed.is_first():
            _announce(trainer, state, workdir, effects, meaning)
            log = metrics_log.MetricsWriter(workdir, first)
            _warn_of_gaps(log.path, config.log.every, first, meaning)
            stack.enter_context(contextlib.closing(log))
        quiet = None if log else Console(quiet=True)
        progress_bar = progress.TrainingProgress(
            first, config.num_steps, config.batch_size, quiet
        )
        stack.enter_context(contextlib.closing(progress_bar))
        stored = stack.enter_context(posthoc_ema.opened(workdir, config.ema, meaning))
        watch = reference_curves.watch(meaning)
        sinks = Sinks(saved, stored, log, progress_bar, watch)
        run = TrainLoop(trainer, workdir, sinks, meaning, stop)
        run.run_missed_actions(first, state)
        numbers = range(first + 1, config.num_steps + 1)
        batches = stack.enter_context(contextlib.closing(trainer.batches(first)))
        for number, batch in zip(numbers, progress_bar.waiting(batches), strict=False):
            state = run.step(number, batch, state)
            if hook is not None:
                hook(number, batch, state)
    if distributed.is_first():
        _conclude(workdir, config.num_steps)
    return state


def _announce(
    trainer: Trainer,
    state: TrainState,
    workdir: pathlib.Path,
    effects: dict[str, float],
    meaning: Mapping[str, Any],
) -> None:
    """Prints banner and warnings; writes `config.json` and `environment.json`."""
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    sigma_data = trainer.config.sigma_data, trainer.root_mean_square()
    dataset = trainer.dataset
    text = console.banner(
        num_parameters=parameters,
        objective=trainer.config.objective.to_dict(),
        examples=(
            len(dataset.train.labels),
            len(dataset.test.labels),
            dataset.num_classes,
        ),
        sigma_data=sigma_data,
        step=int(state.step),
        num_steps=trainer.config.num_steps,
        workdir=workdir,
    )
    print(text, flush=True)
    lines = [
        *(label_probe.warning(effect, name) for name, effect in effects.items()),
        console.sigma_data_warning(*sigma_data),
        _without_picture(trainer),
        _readers(trainer.config.data.workers),
    ]
    for line in filter(None, lines):
        print(line, flush=True)
    rows = {"history": meaning["history"]} if "history" in meaning else {}
    files.write_json(workdir / "config.json", meaning["config"] | rows)
    files.write_json(workdir / "environment.json", environment.environment())
    external.keep_copies(trainer.identity["modules"], workdir)
    grid_files.keep_copy(trainer.config.sampler.grid, workdir)


def _without_picture(trainer: Trainer) -> str | None:
    """Says that samples have no picture where pictures are asked for, else None."""
    shape = trainer.model.event_shape
    asked = trainer.config.samples.every and not sample_images.num_shown(shape)
    return sample_images.no_picture(shape) if asked else None


def _readers(workers: int) -> str | None:
    """Returns a line on the processes that read the data, None where there are none."""
    if not workers:
        return None
    many = "process reads" if workers == 1 else "processes read"
    each = " for each process of the run" if jax.process_count() > 1 else ""
    return f"{workers} {many} the data{each} (data.workers)"


def _warn_of_gaps(
    path: pathlib.Path, every: int, first: int, meaning: Mapping[str, Any]
) -> None:
    """Says which rows of the log are lost, if any, since its interval changed last."""
    rows = meaning.get("history", [])
    since = [row["step"] for row in rows if row["entry"] == metadata.LOG_EVERY]
    gaps = metrics_log.missing(path, every, first)
    gaps = [step for step in gaps if step > max(since, default=0)]
    if gaps:
        listed = ", ".join(f"{step:,}" for step in gaps[:5])
        more = f" and {len(gaps) - 5:,} more" if len(gaps) > 5 else ""
        print(
            f"warning: {path} lacks the row of step {listed}{more}: lost with the "
            "machine, or removed; the run itself is complete",
            flush=True,
        )


def _conclude(workdir: pathlib.Path, num_steps: int) -> None:
    """Draws the loss curve; says what was reached and where the files are."""
    rows = metrics_log.read(workdir / metrics_log.FILE_NAME)
    with progress.announced("drawing the loss curve"):
        from experiments.visualization import plots  # Matplotlib: slow to import

        plots.write_loss_curve(workdir / "loss.png", rows, metrics_log.LOSSES)
    print(
        f"done: {summary(rows, num_steps)}; checkpoints, metrics.jsonl, loss.png and "
        f"samples/ are in {workdir}",
        flush=True,
    )
    if rows and rows[-1]["loss"] is None and rows[-1].get("skipped_steps"):
        raise Diverged(
            f"none of the last {rows[-1]['skipped_steps']:,} steps was finite, up to "
            f"step {rows[-1]['step']:,}: the weights are those before them; reduce "
            "optimizer.learning_rate or set optimizer.clip_norm"
        )


def summary(rows: Sequence[Mapping[str, Any]], num_steps: int) -> str:
    """Says how many steps counted, and the last loss of each kind with its step.

    Args:
      rows: of the metrics.
      num_steps: of the run.
    """
    text = f"step {num_steps:,}"
    if skipped := sum(row.get("skipped_steps") or 0 for row in rows):
        text += f", of which {num_steps - skipped:,} counted"
    last = {}
    for row in rows:
        for name in metrics_log.LOSSES:
            if row.get(name) is not None:
                last[name] = row[name], row["step"]
    for name in metrics_log.LOSSES:
        if name in last:
            loss, step = last[name]
            at = "" if step == num_steps else f" at step {step:,}"
            text += f", {name.replace('_', ' ')} {loss:.4f}{at}"
    return text
