"""Computes and formats the results of an evaluation, from weights that are loaded."""

import functools
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from experiments.checkpointing.loaded import Loaded
from experiments.data.base import DataSet
from experiments.evaluation import (
    bits_per_dim,
    likelihoods,
    per_example,
    sample_quality,
)
from experiments.evaluation.result_cache import Chunks, ResultCache
from experiments.evaluation.results import solver_bound
from experiments.runtime import environment, progress
from experiments.sampling import generate, requested, shards

FOLDER = "evaluation"  # of the cache, in the workdir
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
    out: str | None = None


def measure(
    workdir: pathlib.Path,
    request: Request,
    weights: Mapping[str, Loaded],
    dataset: DataSet,
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Computes what `eval.json` and `eval.npz` hold.

    Of data with a mask that is the eps-MSE over the unmasked values alone; `left_out`
    says what is missing and why.

    Args:
      workdir: of the run.
      request: complete.
      weights: "raw" and "ema".
      dataset: of the run.
    """
    loaded = weights[request.weights]
    cache = ResultCache(workdir / FOLDER)
    for name, each in weights.items():
        _report_unused(workdir, cache, name, each)
    left_out = _left_out(loaded, dataset)
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
    computed = {"likelihood": _likelihood, "sample quality": _sample_quality}
    for name, compute in computed.items():
        if name not in left_out:
            more, more_arrays = compute(workdir, request, loaded, dataset, cache)
            results |= more
            arrays |= more_arrays
    return results, arrays


def _left_out(loaded: Loaded, dataset: DataSet) -> dict[str, str]:
    """Names what is not computed of a run, with the reason."""
    jumps = {} if loaded.model.predicts_at_one_time else JUMPS
    return (MASKED if dataset.test.mask is not None else {}) | jumps


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
        batch_size=request.batch_size,
    )
    summary = bits_per_dim.summary(nats, loaded.model, request.likelihood)
    each = bits_per_dim.in_units(nats, loaded.model)
    return {"likelihood": summary}, {name: each[name] for name in ("bound", "ode")}


def _sample_quality(
    workdir: pathlib.Path,
    request: Request,
    loaded: Loaded,
    dataset: DataSet,
    cache: ResultCache,
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Computes the quality of samples of every sampler, and that of held-out data."""
    del cache
    evaluator = sample_quality.SampleEvaluator(loaded.model, dataset, request.samples)
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
            f"left out, in {workdir / FOLDER}, of the {name} weights of step {step:,}: "
            f"{folders}, of {reason}",
            flush=True,
        )


def _eps_mse(
    request: Request, name: str, loaded: Loaded, dataset: DataSet, cache: ResultCache
) -> np.ndarray:
    return per_example.per_example(
        loaded.model,
        loaded.params,
        dataset.test,
        _chunks(cache, loaded, "eps", {"batch_size": request.batch_size}),
        batch_size=request.batch_size,
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
            f"quarantined, in {path.parent}: {path.name} is of other weights of step "
            f"{asked.step:,}, and is {new} now",
            flush=True,
        )
    return loaded._replace(request=asked)


def _sampled(workdir: pathlib.Path, loaded: Loaded, dataset: DataSet) -> pathlib.Path:
    """Samples by one sampler, unless its samples exist; returns their path."""
    text = sample_quality.sampler_text(loaded.request.sampler)
    with progress.PartProgress(f"sample quality, samples of {text}", bar=False):
        given = requested.of_samples(loaded, dataset.test)
        return generate.write_samples(workdir, loaded, given)


def rows(workdir: pathlib.Path, results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Lists every number with its error, in the columns of `results.csv`.

    Likelihoods and eps-MSE have intervals of two standard errors, metrics those of the
    bootstrap.
    """
    listed = [*_likelihood_rows(results["likelihood"]), *_eps_mse_rows(results)]
    baseline = {
        "sampler": None,
        "nfe": None,
        "metrics": results["held_out_baseline"],
    }
    for each in [baseline, *results["samples"]]:
        sampler = "held-out examples"
        if each["sampler"] is not None:
            sampler = sample_quality.sampler_text(each["sampler"])
        listed += [
            {
                "quantity": one["metric"],
                "features": one["recipe"]["features"],
                "sampler": sampler,
                "nfe": each["nfe"],
                **{key: one[key] for key in ("value", "standard_error", "low", "high")},
            }
            for one in each["metrics"]
        ]
    return [{"run": str(workdir), **row} for row in listed]


def _likelihood_rows(likelihood: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    if likelihood is None:
        return []
    return [
        _row(f"{name} ({likelihood['unit']})", **likelihood[name])
        for name in ("bound", "ode")
    ]


def _eps_mse_rows(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Lists the eps-MSE of raw and averaged weights at each log-SNR reached."""
    eps_mse = results["eps_mse"]
    if eps_mse is None:
        return []
    return [
        _row(f"eps-MSE ({weights}) at log-SNR {logsnr:g}", mean=mean, stderr=stderr)
        for weights in ("raw", "ema")
        for logsnr, mean, stderr in zip(
            eps_mse["logsnr"],
            eps_mse[weights]["mean"],
            eps_mse[weights]["stderr"],
            strict=True,
        )
        if mean is not None
    ]


def _row(quantity: str, *, mean: float, stderr: float, **unused: Any) -> dict[str, Any]:
    """Makes a row with an interval of two standard errors."""
    return {
        "quantity": quantity,
        "value": mean,
        "standard_error": stderr,
        "low": mean - 2 * stderr,
        "high": mean + 2 * stderr,
    }


def text(results: Mapping[str, Any]) -> str:
    """Formats the results in a few lines."""
    lines = [f"{name}: left out" for name in results["left_out"]]
    lines += _likelihood_lines(results["likelihood"])
    eps_mse = results["eps_mse"]
    shown = results["left_out"] and eps_mse is not None
    for weights in ("raw", "ema") if shown else ():
        means = ", ".join(
            f"{mean:.4g} at {logsnr:g}"
            for logsnr, mean in zip(
                eps_mse["logsnr"], eps_mse[weights]["mean"], strict=True
            )
            if mean is not None
        )
        lines.append(f"eps-MSE by log-SNR, {weights} weights: {means}")
    baseline = {"sampler": None, "metrics": results["held_out_baseline"]}
    for row in [baseline, *results["samples"]]:
        sampler = row["sampler"]
        who = "held-out examples"
        if sampler is not None:
            who = f"{sampler['name']}, NFE {row['nfe']}"
        lines += [
            f"{who}: {one['metric']} of {one['recipe']['features'].partition('(')[0]} "
            f"{one['value']:.4g} +- {one['standard_error']:.2g}"
            for one in row["metrics"]
        ]
    return "\n".join(lines)


def _likelihood_lines(likelihood: Mapping[str, Any] | None) -> list[str]:
    if likelihood is None:
        return []
    lines = [
        f"{name}: {likelihood[name]['mean']:.4f} +- {likelihood[name]['stderr']:.4f} "
        f"{likelihood['unit']}, {likelihood['count']} held-out examples"
        for name in ("bound", "ode")
    ]
    if (error := likelihood["solver_error"]) is not None:
        bound = solver_bound(error)
        lines.append(
            f"ode: the solver's error is within {bound:.2g}, by "
            f"{error['steps']} steps for {error['count']} of the examples"
        )
    return lines
