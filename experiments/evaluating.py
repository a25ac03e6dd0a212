"""What can be said of a trained run, in units that do not depend on its recipe."""

import hashlib
import json
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments import (
    batches,
    build,
    devices,
    evaluation,
    likelihoods,
    quality,
    report,
    results,
    sampling,
    step,
)
from experiments.data import DataSet, Examples
from experiments.errors import Stopped, UsageError, check_bound, stopping
from experiments.metrics import plain
from experiments.model import Model
from experiments.parts import Parts
from experiments.sampling import Loaded


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
        beside it, under the same name with `.npz`.
    """

    weights: str = "ema"
    step: int | None = None
    num_examples: int | None = None
    batch_size: int = 128
    guidance: float | None = None
    likelihood: likelihoods.Settings = likelihoods.Settings()
    samples: quality.Settings = quality.Settings(())
    out: str | None = None


def evaluate_run(workdir: str | pathlib.Path, request: Request) -> pathlib.Path:
    """Evaluates a run and writes `eval.json` and `eval.npz`.

    Likelihoods of held-out examples, the error of eps at fixed log-SNRs of raw and
    averaged weights, and metrics of samples against network calls, each with its error
    and its recipe. What is finished is kept in `evaluation/` and `samples/`: stopped or
    killed, the same call goes on, and the result is the same.

    Args:
      workdir: of the run.
      request: what to evaluate.

    Returns:
      The path of the result.

    Raises:
      UsageError: if there is no such checkpoint, the data are other ones than it was
        trained on, a setting does not fit, or the result is that of other settings.
      Stopped: at SIGTERM or Ctrl-C.
    """
    workdir = pathlib.Path(workdir)
    with stopping():
        loaded = sampling.load(
            workdir,
            sampling.Request(
                step=request.step, weights=request.weights, guidance=request.guidance
            ),
        )
        dataset = build.dataset(loaded.config["data"])
        _check_data(loaded, dataset)
        request = _completed(request, loaded)
        settings = _settings(request, loaded)
        path = pathlib.Path(request.out or workdir / "eval.json")
        check_bound("out", str(path), path.suffix == ".json", "a .json")
        if results.is_there(path, settings):
            print(f"evaluated already: {path}", flush=True)
            return path
        folder = _digest(settings | {"format": results.FORMAT})
        parts = Parts(workdir / "evaluation" / folder, settings)
        try:
            with jax.default_matmul_precision(loaded.config["matmul_precision"]):
                found, arrays = _everything(workdir, request, loaded, dataset, parts)
        except Stopped as stopped:
            stopped.kept = f"what is finished is in {workdir}; the same command goes on"
            raise
        results.write(path, {"settings": settings, **found}, arrays)
    print(_text(found), path, sep="\n", flush=True)
    return path


def _everything(
    workdir: pathlib.Path,
    request: Request,
    loaded: Loaded,
    dataset: DataSet,
    parts: Parts,
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """What `eval.json` and `eval.npz` hold."""
    examples = dataset.test
    if request.num_examples is not None:
        examples = examples._replace(
            values=examples.values[np.arange(request.num_examples)],
            labels=examples.labels[: request.num_examples],
        )
    nats = likelihoods.per_example(
        loaded.model,
        loaded.params,
        examples,
        request.likelihood,
        parts,
        batch_size=request.batch_size,
    )
    eps_mse = _eps_mse(workdir, request, loaded, dataset.test, parts)
    judge = quality.Judge(loaded.model, dataset, request.samples)
    samples = [
        quality.judged(workdir, judge, _draw(request, loaded, section))
        for section in quality.listed(request.samples, loaded.config["sampler"])
    ]
    of_each = likelihoods.in_units(nats, loaded.model)
    arrays = {name: of_each[name] for name in ("bound", "ode")}
    arrays |= {f"eps_mse_{name}": value for name, value in eps_mse.items()}
    arrays |= {f"samples_{i}": found for i, (_, found) in enumerate(samples)}
    return {
        "identity": loaded.identity,
        "environment": report.environment(),
        "likelihood": likelihoods.summary(nats, loaded.model, request.likelihood),
        "eps_mse": _by_level(eps_mse),
        "floor": judge.floor(),
        "accuracy": judge.accuracy(),
        "samples": [told for told, _ in samples],
    }, arrays


def _draw(
    request: Request, loaded: Loaded, section: dict[str, Any]
) -> sampling.Request:
    return loaded.request._replace(
        num_samples=request.samples.num_samples,
        seed=request.samples.seed,
        sampler=section,
    )


def _eps_mse(
    workdir: pathlib.Path,
    request: Request,
    loaded: Loaded,
    examples: Examples,
    parts: Parts,
) -> dict[str, np.ndarray]:
    """The error of each example at each level of raw and averaged weights."""
    told = evaluation.reached(loaded.model.objective.schedule)
    found = {}
    for weights in ("raw", "ema"):
        asked = sampling.Request(step=loaded.request.step, weights=weights)
        params = sampling.load(workdir, asked).params
        compute = lambda params=params: _errors(
            loaded.model, params, examples, request.batch_size
        )
        errors = parts.get(f"eps-mse-{weights}", compute)["eps_mse"]
        found[weights] = np.where(told, errors, np.nan)
    return found


def _by_level(found: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The mean at each level over all examples and its standard error."""
    return {"logsnr": evaluation.LEVELS.tolist()} | {
        weights: {
            "mean": plain(errors.mean(0)),
            "stderr": plain(errors.std(0, ddof=1) / np.sqrt(len(errors))),
        }
        for weights, errors in found.items()
    }


def _errors(
    model: Model, params: Any, examples: Examples, batch_size: int
) -> dict[str, np.ndarray]:
    """The squared error of eps of each example at each level, `[n, levels]`."""
    draws = len(evaluation.LEVELS)  # then `evaluation.levels_of` has them in order
    key = step.stream(0, step.EVALUATE)

    def program(params: Any, batch: Examples, number: jax.Array) -> jax.Array:
        return evaluation.eval_step(
            params, batch, number, key, model=model, draws=draws
        ).eps_mse

    eval_fn = jax.jit(program, compiler_options=devices.compiler_options())
    rows = []
    for number, mask in batches.padded(len(examples.labels), batch_size):
        found = eval_fn(params, examples.gather(number), number.astype(np.int32))
        rows.append(np.asarray(found)[mask])
    return {"eps_mse": np.concatenate(rows)}


def _check_data(loaded: Loaded, dataset: DataSet) -> None:
    there, here = loaded.identity["examples"], dataset.identity()
    if there != here:
        raise UsageError(
            f"the run was trained on {there}, and the data are {here} now: their "
            "held-out examples are other ones"
        )


def _completed(request: Request, loaded: Loaded) -> Request:
    """The request with a sampler and the step of the checkpoint."""
    asked, own = request.samples, loaded.config["sampler"]
    if not asked.samplers:
        text = f"{own['name']}@{own['num_steps']}@{own['grid']}"
        asked = asked._replace(samplers=(text,))
    for section in quality.listed(asked, own):  # refused before anything is computed
        build.grid(section, loaded.model.objective.schedule)
    return request._replace(step=loaded.request.step, samples=asked)


def _settings(request: Request, loaded: Loaded) -> dict[str, Any]:
    """What the result depends on, as plain JSON values."""
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(loaded.params):
        digest.update(np.asarray(leaf).tobytes())
    found = request._asdict() | {
        "guidance": loaded.request.guidance,
        "likelihood": request.likelihood._asdict(),
        "samples": request.samples._asdict(),
        "parameters": digest.hexdigest()[:16],
    }
    del found["out"]
    return json.loads(json.dumps(found))


def _digest(settings: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[
        :12
    ]


def _text(found: Mapping[str, Any]) -> str:
    """The result in a few lines."""
    likelihood = found["likelihood"]
    lines = [
        f"{name}: {likelihood[name]['mean']:.4f} +- {likelihood[name]['stderr']:.4f} "
        f"{likelihood['unit']}, {likelihood['count']} held-out examples"
        for name in ("bound", "ode")
    ]
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
