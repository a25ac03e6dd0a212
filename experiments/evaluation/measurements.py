"""Computes the results of an evaluation, from weights that are loaded."""

import functools
import math
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.checkpointing.loaded import Loaded
from experiments.config.model import Model
from experiments.data.base import DataSet
from experiments.evaluation import (
    bits_per_dim,
    likelihoods,
    per_example,
    sample_quality,
)
from experiments.evaluation.features import Features
from experiments.evaluation.result_cache import FOLDER, Chunks, ResultCache
from experiments.runtime import environment, progress
from experiments.sampling import generate, requested, shards

LARGE = 512  # values of an example
CPU_WIDTH = 16  # such examples at a time
SELDOM = 3600.0  # seconds
MASKED = {  # what is left out of data with a mask, and why
    "likelihood": (
        "the data have a mask: the likelihood of an example would include the values "
        "that the mask excludes, on which the network was never trained"
    ),
    "sample quality": (
        "the data have a mask: samples have none, and features of the data would "
        "include the values that it excludes"
    ),
}
JUMPS = dict.fromkeys(  # and of a network that is trained to jump alone
    ("likelihood", "eps-MSE"),
    "the network is trained to jump from one time to another, and does not predict at "
    "each time",
)


class Request(NamedTuple):
    """What to evaluate of a run.

    Fields:
      weights: "ema" or "raw", of likelihoods and samples.
      step: of the checkpoint, or None for the newest.
      num_examples: held-out examples, or None for all.
      batch_size: of likelihoods.
      guidance: of samples, or None for that of the config.
      likelihood: settings of bound and ODE.
      samples: settings of samples; without samplers, that of the config.
      leave_out: parts, kinds of features and metrics that are not computed.
      out: path of the result, or None for `eval.json` in the workdir; the arrays are
        next to it, under the same name with `.npz`.
    """

    weights: str = "ema"
    step: int | None = None
    num_examples: int | None = None
    batch_size: int = 128
    guidance: float | None = None
    likelihood: likelihoods.Settings = likelihoods.Settings()
    samples: sample_quality.Settings = sample_quality.Settings(())
    leave_out: tuple[str, ...] = ()
    out: str | None = None


def measure(
    workdir: pathlib.Path,
    request: Request,
    weights: Mapping[str, Loaded],
    dataset: DataSet,
    features: Sequence[Features],
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Computes what `eval.json` and `eval.npz` hold.

    Of data with a mask that is the eps-MSE over the unmasked values alone; `left_out`
    says what is missing and why.

    Args:
      workdir: of the run.
      request: complete.
      weights: "raw" and "ema".
      dataset: of the run.
      features: of `sample_quality.asked_features`.
    """
    loaded = weights[request.weights]
    cache = ResultCache(workdir / FOLDER)
    for name, each in weights.items():
        _report_unused(workdir, cache, name, each)
    left_out = _left_out(request, loaded, dataset)
    for name, reason in left_out.items():
        print(f"{name} is left out: {reason}", flush=True)
    eps_mse = {
        name: _eps_mse(request, name, weights[name], dataset, cache)
        for name in ("raw", "ema")
        if "eps-MSE" not in left_out
    }
    arrays = {f"eps_mse_{name}": value for name, value in eps_mse.items()}
    results = {
        "identity": loaded.identity,
        "weights": {name: each.digest for name, each in weights.items()},
        "environment": environment.environment(),
        "left_out": dict(left_out),
        "eps_mse": per_example.summary(eps_mse) if eps_mse else None,
        "likelihood": None,
        "held_out_baseline": [],
        "accuracy": None,
        "samples": [],
    }
    quality = functools.partial(_sample_quality, features=features)
    computed: dict[str, Callable[..., Any]] = {
        "likelihood": _likelihood,
        "sample quality": quality,
    }
    for name, compute in computed.items():
        if name not in left_out:
            more, more_arrays = compute(workdir, request, loaded, dataset, cache)
            results |= more
            arrays |= more_arrays
    return results, arrays


def _left_out(request: Request, loaded: Loaded, dataset: DataSet) -> dict[str, str]:
    """Names what is not computed of a run, with the reason."""
    asked = set(request.leave_out)
    if asked >= likelihoods.NAMES.keys():
        asked.add("likelihood")
    parts = ("eps-MSE", "likelihood", "sample quality")
    left_out = {name: "--leave_out asks for it" for name in parts if name in asked}
    masked = MASKED if dataset.test.mask is not None else {}
    return left_out | masked | ({} if loaded.model.predicts_at_one_time else JUMPS)


def _likelihood(
    workdir: pathlib.Path,
    request: Request,
    loaded: Loaded,
    dataset: DataSet,
    cache: ResultCache,
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Computes bound and density of the held-out examples that are asked for."""
    del workdir
    examples = dataset.test
    if request.num_examples is not None:
        examples = examples.gather(np.arange(request.num_examples))
    nats = likelihoods.per_example(
        loaded.model,
        loaded.params,
        examples,
        request.likelihood,
        functools.partial(_chunks, cache, loaded),
        batch_size=_batch_size(request, loaded, len(examples.labels)),
        left_out=request.leave_out,
    )
    summary = bits_per_dim.summary(nats, loaded.model, request.likelihood)
    each = bits_per_dim.in_units(nats, loaded.model)
    arrays = {name: each[name] for name in likelihoods.NAMES if name in each}
    return {"likelihood": summary}, arrays


def _batch_size(request: Request, loaded: Loaded, count: int) -> int:
    """Returns the examples of a batch, as even as batches can be.

    So few copies fill the last one up. Of large examples on a CPU it is a few, so that
    progress and cached results come often.
    """
    most = min(request.batch_size, CPU_WIDTH if is_slow(loaded.model) else count)
    return math.ceil(count / math.ceil(count / most))


def is_slow(model: Model) -> bool:
    """Returns whether examples are so large, on a CPU, that a few take minutes."""
    return math.prod(model.event_shape) > LARGE and jax.default_backend() == "cpu"


def _sample_quality(
    workdir: pathlib.Path,
    request: Request,
    loaded: Loaded,
    dataset: DataSet,
    cache: ResultCache,
    *,
    features: Sequence[Features],
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Computes the quality of samples of every sampler, and that of held-out data."""
    del cache
    evaluator = sample_quality.SampleEvaluator(
        loaded.model, dataset, request.samples, request.leave_out, features
    )
    sections = sample_quality.sampler_sections(
        request.samples, loaded.config["sampler"]
    )
    rows, arrays = [], {}
    for number, section in enumerate(sections):
        to_sample = _to_sample(workdir, request, loaded, section)
        path = _sampled(workdir, to_sample, dataset)
        with np.load(path) as file:
            stored = file["samples"]
        row, resamples = sample_quality.evaluate_samples(
            evaluator, to_sample.request, stored
        )
        rows.append({"file": path.relative_to(workdir).as_posix(), **row})
        arrays[f"samples_{number}"] = resamples
    baseline = evaluator.held_out_baseline()
    accuracy = evaluator.accuracy()
    results = {"held_out_baseline": baseline, "accuracy": accuracy, "samples": rows}
    return results, arrays


def _chunks(
    cache: ResultCache, loaded: Loaded, kind: str, settings: Mapping[str, Any]
) -> Chunks:
    """Opens the cached results of these weights and settings."""
    own = {name: getattr(loaded.request, name) for name in ("weights", "step")}
    own["parameters"] = loaded.digest
    return cache.chunks(kind, own | dict(settings))


def _report_unused(
    workdir: pathlib.Path, cache: ResultCache, name: str, loaded: Loaded
) -> None:
    """Prints which cached results are not used, as of a run that was trained again."""
    step = loaded.request.step
    unused = cache.unused(name, step, loaded.digest)
    for reason in sorted(set(unused.values())):
        folders = ", ".join(one for one in unused if unused[one] == reason)
        print(
            f"not used, in {workdir / FOLDER}: {folders}, of the {name} weights of "
            f"step {step:,}, {reason}",
            flush=True,
        )


def _eps_mse(
    request: Request, name: str, loaded: Loaded, dataset: DataSet, cache: ResultCache
) -> np.ndarray:
    batch_size = _batch_size(request, loaded, len(dataset.test.labels))
    return per_example.per_example(
        loaded.model,
        loaded.params,
        dataset.test,
        _chunks(cache, loaded, "eps", {"batch_size": batch_size}),
        batch_size=batch_size,
        what=f"held-out eps-MSE, {name} weights",
    )


def _to_sample(
    workdir: pathlib.Path, request: Request, loaded: Loaded, section: dict[str, Any]
) -> Loaded:
    """Requests the samples of a sampler; quarantines those of other weights."""
    asked = loaded.request._replace(
        num_samples=request.samples.num_samples,
        seed=request.samples.seed,
        sampler=section,
    )
    path = generate.output_path(workdir, asked)
    new = shards.quarantine(path, "parameters", loaded.digest)
    if new is not None:
        print(
            f"{path} was sampled before the run was trained again, from other weights "
            f"of step {asked.step:,}: quarantined as {new}",
            flush=True,
        )
    return loaded._replace(request=asked)


def _sampled(workdir: pathlib.Path, loaded: Loaded, dataset: DataSet) -> pathlib.Path:
    """Samples by one sampler, unless its samples exist; returns their path."""
    text = sample_quality.sampler_text(loaded.request.sampler)
    what = f"sample quality, samples of {text}"
    with progress.PartProgress(what, bar=False, every=SELDOM):  # drawing has its own
        given = requested.of_samples(loaded, dataset.test)
        return generate.write_samples(workdir, loaded, given)
