"""Weights of a run and what they mean, from one of its checkpoints."""

import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from experiments.checkpointing import identity, manager, metadata, posthoc_ema
from experiments.checkpointing.loaded import Loaded, Request
from experiments.config import build, elsewhere, external, grid_files
from experiments.config.model import Model
from experiments.data import class_labels
from experiments.runtime import pytrees, sharding
from experiments.runtime.errors import UsageError, require


def load(workdir: pathlib.Path, request: Request) -> Loaded:
    """Loads the weights of a run to sample with, and what they mean.

    Args:
      workdir: of the run.
      request: which of them; its sampler and guidance are completed from the config.

    Raises:
      UsageError: there is no such checkpoint, or a setting does not fit it: this is
        found before the weights are read.
    """
    (loaded,) = load_each(workdir, request, (request.weights,), check_fn=_check_jumps)
    return loaded


def _check_jumps(request: Request, built: Model) -> None:
    """Checks a complete request to sample."""
    assert request.guidance is not None
    sampler, _ = build.sampling(request.sampler, built.objective.schedule)
    build.check_guidance(built.net, sampler, request.guidance)
    build.check_plan(request.sampler, built.objective.schedule)


def load_each(
    workdir: pathlib.Path,
    request: Request,
    weights: Sequence[str],
    check_fn: Callable[[Request, Model], None] = lambda request, built: None,
) -> list[Loaded]:
    """Loads, as `load`, several kinds of weights, all of one checkpoint.

    Args:
      workdir: of the run.
      request: as of `load`.
      weights: "ema", "raw".
      check_fn: `(completed request, model)`, called before weights are read.
    """
    names = () if request.sigma_rel is not None else tuple(weights)
    number, found, built, completed, every = _open(workdir, request, names, check_fn)
    if request.sigma_rel is not None:
        average, error = posthoc_ema.reconstruct(
            workdir,
            request.sigma_rel,
            step=number,
            found=found,
            target=_target(built),
        )
        print(
            f"averaged weights of width {request.sigma_rel:g}: reconstructed, with an "
            f"error of {error:.1%} in how they weigh the steps"
        )
        every = [average]
    return [
        Loaded(
            completed._replace(weights=name),
            found,
            built,
            params,
            pytrees.digest(params),
        )
        for name, params in zip(weights, every, strict=True)
    ]


def describe(workdir: pathlib.Path, request: Request) -> Loaded:
    """Reads what `load` gives, without weights: `params` None and an empty digest."""
    _, found, built, completed, _ = _open(workdir, request, (), _check_jumps)
    return Loaded(completed, found, built, None, "")


def _completed(
    request: Request, number: int, found: Mapping[str, Any], built: Model
) -> Request:
    """Completes a request for a step with settings of the config, and checks it."""
    if request.sigma_rel is not None:
        require("weights", request.weights, request.weights == "ema", "ema")
    config, label = found["config"], request.label
    if label is not None:
        names = found["examples"].get("class_names", ())
        label = class_labels.class_number(label, built.num_classes, names)
    guidance = config["guidance"] if request.guidance is None else request.guidance
    sampler = elsewhere.completed(config["sampler"], request.sampler)
    return request._replace(
        step=number, label=label, guidance=guidance, sampler=sampler
    )


def _open(
    workdir: pathlib.Path,
    request: Request,
    weights: Sequence[str],
    check_fn: Callable[[Request, Model], None],
) -> tuple[int, Mapping[str, Any], Model, Request, list[Any]]:
    """Opens a checkpoint: `(step, identity, model, completed request, weights)`."""
    items = [manager.WEIGHTS[name] for name in weights]
    with manager.Checkpoints(workdir, read_only=True, items=items) as saved:
        while True:
            number = _existing_step(saved, request.step)
            try:
                found = saved.identity(number)
                metadata.check_format(found)
                found = _with_own_grid(found, workdir)
                external.find_again(found["modules"], workdir)
                built = build.model_of(found)
                rebuilt = identity.make(found["config"], built, found["examples"])
                rebuilt["modules"] = found["modules"]  # a change was printed
                metadata.check_compatible(found, rebuilt, number)
                completed = _completed(request, number, found, built)
                check_fn(completed, built)
                targets = dict.fromkeys(items, _target(built))
                restored = saved.restore(number, targets) if items else {}
            except Exception:
                if number in saved.steps():
                    raise  # or a training that goes on removed it for a newer one
            else:
                every = [restored[item] for item in items]
                return number, found, built, completed, every


def _with_own_grid(found: Mapping[str, Any], workdir: pathlib.Path) -> dict[str, Any]:
    """Returns the identity with the run's own copy in place of the file of a grid."""
    config = found["config"]
    grid = grid_files.located(config["sampler"]["grid"], workdir)
    sampler = {**config["sampler"], "grid": grid}
    return {**found, "config": {**config, "sampler": sampler}}


def _target(built: Model) -> Any:
    """Returns the parameters of a model, as shapes on devices."""
    init = lambda: built.init(jax.random.key(0))  # compiles nothing
    return sharding.abstract(jax.eval_shape(init))


def _existing_step(saved: manager.Checkpoints, step: int | None) -> int:
    if step is not None and step in saved.steps():
        saved.check(step)
        return step
    newest = saved.newest()
    if newest is None:
        raise UsageError(
            f"{saved.directory} holds no complete checkpoint yet: wait until the "
            "training has saved one"
        )
    if step is not None:
        steps = saved.steps()
        raise UsageError(
            f"step={step}: must be one of {steps}, the steps in {saved.directory}"
        )
    return newest
