"""What an evaluation computes and tells, from weights that are loaded."""

import functools
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from experiments.checkpointing.restore import Loaded
from experiments.data import DataSet
from experiments.evaluation import (
    bits_per_dim,
    likelihoods,
    per_example,
    sample_quality,
)
from experiments.evaluation.result_cache import Parts, ResultCache
from experiments.runtime import environment
from experiments.sampling import generate, shards

FOLDER = "evaluation"  # of what is finished, in the workdir


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


def everything(
    workdir: pathlib.Path,
    request: Request,
    weights: Mapping[str, Loaded],
    dataset: DataSet,
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """What `eval.json` and `eval.npz` hold.

    Args:
      workdir: of the run.
      request: complete.
      weights: "raw" and "ema".
      dataset: of the run.
    """
    loaded = weights[request.weights]
    cabinet = ResultCache(workdir / FOLDER)
    for name, each in weights.items():
        _tell_left_out(workdir, cabinet, name, each)
    nats = _nats(request, loaded, dataset, cabinet)
    eps_mse = {
        name: _eps_mse(request, weights[name], dataset, cabinet)
        for name in ("raw", "ema")
    }
    judge = sample_quality.SampleEvaluator(loaded.model, dataset, request.samples)
    samples = [
        sample_quality.evaluate_samples(
            workdir, judge, _to_draw(workdir, request, loaded, section)
        )
        for section in sample_quality.listed(request.samples, loaded.config["sampler"])
    ]
    of_each = bits_per_dim.in_units(nats, loaded.model)
    arrays = {name: of_each[name] for name in ("bound", "ode")}
    arrays |= {f"eps_mse_{name}": value for name, value in eps_mse.items()}
    arrays |= {f"samples_{i}": found for i, (_, found) in enumerate(samples)}
    return {
        "identity": loaded.identity,
        "environment": environment.environment(),
        "likelihood": bits_per_dim.summary(nats, loaded.model, request.likelihood),
        "eps_mse": per_example.summary(eps_mse),
        "floor": judge.floor(),
        "accuracy": judge.accuracy(),
        "samples": [told for told, _ in samples],
    }, arrays


def _parts(
    cabinet: ResultCache, loaded: Loaded, kind: str, settings: Mapping[str, Any]
) -> Parts:
    """Where parts that depend on these weights and settings are kept."""
    own = {name: getattr(loaded.request, name) for name in ("weights", "step")}
    own["parameters"] = loaded.digest
    return cabinet.parts(kind, own | dict(settings))


def _tell_left_out(
    workdir: pathlib.Path, cabinet: ResultCache, name: str, loaded: Loaded
) -> None:
    """Prints which cached parts are not used, as of a run that was trained again."""
    step = loaded.request.step
    found = cabinet.left_out(name, step, loaded.digest)
    for why in sorted(set(found.values())):
        folders = ", ".join(one for one in found if found[one] == why)
        print(
            f"left out, in {workdir / FOLDER}, of the {name} weights of step {step:,}: "
            f"{folders}, of {why}",
            flush=True,
        )


def _nats(
    request: Request, loaded: Loaded, dataset: DataSet, cabinet: ResultCache
) -> dict[str, np.ndarray]:
    """Of the held-out examples that are asked for."""
    examples = dataset.test
    if request.num_examples is not None:
        examples = examples.gather(np.arange(request.num_examples))
    return likelihoods.per_example(
        loaded.model,
        loaded.params,
        examples,
        request.likelihood,
        functools.partial(_parts, cabinet, loaded),
        batch_size=request.batch_size,
    )


def _eps_mse(
    request: Request, loaded: Loaded, dataset: DataSet, cabinet: ResultCache
) -> np.ndarray:
    return per_example.per_example(
        loaded.model,
        loaded.params,
        dataset.test,
        _parts(cabinet, loaded, "eps", {"batch_size": request.batch_size}),
        batch_size=request.batch_size,
    )


def _to_draw(
    workdir: pathlib.Path, request: Request, loaded: Loaded, section: dict[str, Any]
) -> Loaded:
    """What `quality.judged` draws; a draw from other weights is quarantined."""
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


def rows(workdir: pathlib.Path, found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every number of a result with its error, in the columns of `results.csv`.

    Likelihoods have intervals of two standard errors, metrics those of the bootstrap.
    """
    likelihood, listed = found["likelihood"], []
    for name in ("bound", "ode"):
        value, error = (likelihood[name][key] for key in ("mean", "stderr"))
        listed.append(
            {
                "quantity": f"{name} ({likelihood['unit']})",
                "value": value,
                "standard_error": error,
                "low": value - 2 * error,
                "high": value + 2 * error,
            }
        )
    drawn = [{"sampler": None, "nfe": None, "metrics": found["floor"]}]
    for each in [*drawn, *found["samples"]]:
        section = each["sampler"]
        sampler = "held-out examples"
        if section is not None:
            sampler = "{name}@{num_steps}@{grid}".format(**section)
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


def text(found: Mapping[str, Any]) -> str:
    """The result in a few lines."""
    likelihood = found["likelihood"]
    lines = [
        f"{name}: {likelihood[name]['mean']:.4f} +- {likelihood[name]['stderr']:.4f} "
        f"{likelihood['unit']}, {likelihood['count']} held-out examples"
        for name in ("bound", "ode")
    ]
    if (error := likelihood["solver_error"]) is not None:
        bound = bits_per_dim.solver_bound(error)
        lines.append(
            f"ode: the solver's error is within {bound:.2g}, by "
            f"{error['steps']} steps for {error['count']} of the examples"
        )
    for row in [{"sampler": None, "metrics": found["floor"]}, *found["samples"]]:
        sampler = row["sampler"]
        who = "held-out examples themselves"
        if sampler is not None:
            who = f"{sampler['name']}, {row['nfe']} calls"
        lines += [
            f"{who}: {one['metric']} of {one['recipe']['features'].partition('(')[0]} "
            f"{one['value']:.4g} +- {one['standard_error']:.2g}"
            for one in row["metrics"]
        ]
    return "\n".join(lines)
