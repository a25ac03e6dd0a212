"""Evaluates a trained run by quantities that do not depend on its recipe."""

import contextlib
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from experiments.checkpointing import restore
from experiments.checkpointing.loaded import Loaded, real_data
from experiments.checkpointing.loaded import Request as LoadRequest
from experiments.config import build, grid_check
from experiments.evaluation import (
    likelihoods,
    measurements,
    results,
    sample_quality,
    tables,
)
from experiments.evaluation.measurements import Request
from experiments.evaluation.result_cache import FOLDER
from experiments.runtime import files, progress
from experiments.runtime.errors import Diverged, UsageError, require
from experiments.runtime.signals import Stopped, stopping

__all__ = ["Request", "evaluate_run"]


def evaluate_run(workdir: str | pathlib.Path, request: Request) -> pathlib.Path:
    """Evaluates a run and writes `eval.json` and `eval.npz`.

    Likelihoods of held-out examples, the eps-MSE at fixed log-SNRs of raw and averaged
    weights, and metrics of samples against NFE, each with its error and its recipe.
    What is finished is kept in `evaluation/` and `samples/`: stopped or killed, the
    same call goes on, and the result is the same. Of data with a mask only the eps-MSE
    is evaluated.

    Args:
      workdir: of the run.
      request: what to evaluate.

    Returns:
      The path of the result.

    Raises:
      UsageError: if there is no such checkpoint, the data differ from those it was
        trained on, a setting does not fit, the result is that of other settings, or
        another process evaluates the run.
      Stopped: at SIGTERM or Ctrl-C.
    """
    workdir = pathlib.Path(workdir)
    path = pathlib.Path(request.out or workdir / "eval.json")
    require("out", str(path), path.suffix == ".json", "a path that ends in .json")
    with contextlib.ExitStack() as stack:
        stack.enter_context(stopping())
        with progress.announced("loading the weights"):
            weights = _load(workdir, request)
        loaded = weights[request.weights]
        with progress.announced("loading the data"):
            dataset = real_data(loaded)
        _check_count(request.num_examples, len(dataset.test.labels))
        request = _completed(request, loaded, len(dataset.test.labels))
        features = []
        if "sample quality" not in request.leave_out:
            shape = loaded.model.event_shape
            features = sample_quality.asked_features(request.samples, shape)
        settings = _settings(request, loaded)
        (workdir / FOLDER).mkdir(exist_ok=True)
        alone = files.acquire_lock(stack, workdir / FOLDER / ".lock")
        if results.exists(path, settings):
            print(f"evaluated already: {path}", flush=True)
            return path
        if not alone:
            raise UsageError(
                f"another process is evaluating {workdir}: wait until it has ended; "
                "the same command then uses what it computed"
            )
        try:
            precision = loaded.config["matmul_precision"]
            stack.enter_context(jax.default_matmul_precision(precision))
            measured, arrays = measurements.measure(
                workdir, request, weights, dataset, features
            )
        except Stopped as stopped:
            stopped.kept = f"what is finished is in {workdir}; the same command goes on"
            raise
        _check_finite(arrays)
        results.write(path, {"settings": settings, **measured}, arrays)
        rows = tables.rows(workdir, measured)
        results.write_csv(path, rows)
    print(tables.text(measured), path, sep="\n", flush=True)
    return path


def _check_finite(arrays: Mapping[str, np.ndarray]) -> None:
    """Raises `Diverged` where the numbers of an example are not finite."""
    for name, values in arrays.items():
        if not values.size:
            continue  # every metric is left out
        rows = values.reshape(len(values), -1)
        reached = rows[:, ~np.isnan(rows).all(0)] if "eps_mse" in name else rows
        bad = (~np.isfinite(reached)).any(1).sum()
        if bad:
            raise Diverged(
                f"{name} of {bad:,} of {len(rows):,} rows is not finite: a mean over "
                "them is no result, and none is written; evaluate another --step, or "
                "--leave_out what is not finite"
            )


def _load(workdir: pathlib.Path, request: Request) -> dict[str, Loaded]:
    """Loads raw and averaged weights of one step, both before a training removes them.

    A training that goes on removes checkpoints when there are newer ones.
    """
    asked = LoadRequest(
        step=request.step, weights=request.weights, guidance=request.guidance
    )
    names = ("raw", "ema")
    return dict(zip(names, restore.load_each(workdir, asked, names), strict=True))


def _check_count(asked: int | None, there: int) -> None:
    """Checks the number of held-out examples."""
    inside = asked is None or 1 <= asked <= there
    bound = f"in 1..{there}, the held-out examples"
    require("num_examples", asked, inside, bound)


def _completed(request: Request, loaded: Loaded, there: int) -> Request:
    """Completes the request: sampler, step of the checkpoint, number of examples."""
    asked, own = request.samples, loaded.config["sampler"]
    if not asked.samplers:
        text = f"{own['name']}@{own['num_steps']}@{own['grid']}"
        asked = asked._replace(samplers=(text,))
    if "bound" not in request.leave_out:
        likelihoods.check_reach(loaded.model, request.likelihood)
    for section in sample_quality.sampler_sections(asked, own):
        build.check_plan(section, loaded.model.objective.schedule)
        assert loaded.request.guidance is not None
        sampler = build.sampler(section)
        build.check_guidance(loaded.model.net, sampler, loaded.request.guidance)
        grid_check.warn_of_other_sampler(section)
    few = measurements.CPU_WIDTH if measurements.is_slow(loaded.model) else there
    if request.num_examples is None and few < there:
        print(
            f"likelihoods of {few} of {there} held-out examples, as they are large for "
            f"a CPU; --num_examples={there} takes all",
            flush=True,
        )
        request = request._replace(num_examples=few)
    return request._replace(step=loaded.request.step, samples=asked)


def _settings(request: Request, loaded: Loaded) -> dict[str, Any]:
    """Collects what the result depends on, as plain JSON values."""
    samplers = sample_quality.recorded_samplers(
        request.samples, loaded.config["sampler"]
    )
    settings = request._asdict() | {
        "leave_out": sorted(set(request.leave_out)),
        "guidance": loaded.request.guidance,
        "likelihood": request.likelihood._asdict(),
        "samples": request.samples._asdict() | {"samplers": samplers},
        "parameters": loaded.digest,
    }
    del settings["out"]
    return json.loads(json.dumps(settings))
