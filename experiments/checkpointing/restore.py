"""Weights of a run and what they mean, from one of its checkpoints."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from experiments.checkpointing import identity, manager, metadata, posthoc_ema
from experiments.checkpointing.loaded import Loaded, Request
from experiments.config import build, external
from experiments.config.model import Model
from experiments.runtime import pytrees, sharding
from experiments.runtime.errors import UsageError, require


def load(workdir: pathlib.Path, request: Request) -> Loaded:
    """The weights of a run and what they mean.

    Args:
      workdir: of the run.
      request: which of them; its sampler and guidance are completed from the config.

    Raises:
      UsageError: there is no such checkpoint, or a setting does not fit it.
    """
    (loaded,) = load_each(workdir, request, (request.weights,))
    return loaded


def load_each(
    workdir: pathlib.Path, request: Request, weights: Sequence[str]
) -> list[Loaded]:
    """As `load`, of several kinds of weights, all of one checkpoint."""
    names = () if request.sigma_rel is not None else tuple(weights)
    number, found, built, every = _open(workdir, request.step, names)
    config = found["config"]
    if request.sigma_rel is not None:
        require("weights", request.weights, request.weights == "ema", "ema")
        average, error = posthoc_ema.reconstruct(
            workdir, request.sigma_rel, step=number, found=found, target=_target(built)
        )
        print(f"average of width {request.sigma_rel:g}: profile off by {error:.1%}")
        every = [average]
    if request.label is not None:
        inside = 0 <= request.label < built.num_classes
        bound = f"in 0..{built.num_classes - 1}, the classes of the data"
        if not built.num_classes:
            bound = "left out: the data have no classes"
        require("label", request.label, inside, bound)
    guidance = config["guidance"] if request.guidance is None else request.guidance
    completed = request._replace(
        step=number, guidance=guidance, sampler=config["sampler"] | request.sampler
    )
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


def _open(
    workdir: pathlib.Path, step: int | None, weights: Sequence[str]
) -> tuple[int, Mapping[str, Any], Model, list[Any]]:
    """`(step, identity, model, weights)` of a checkpoint: of `step`, or the newest."""
    with manager.Checkpoints(workdir, read_only=True) as saved:
        while True:
            number = _existing_step(saved, step)
            try:
                found = saved.identity(number)
                metadata.check_format(found)
                external.find_again(found["modules"], workdir)
                built = build.model_of(found)
                rebuilt = identity.make(found["config"], built, found["examples"])
                rebuilt["modules"] = found["modules"]  # a change was printed
                metadata.check_compatible(found, rebuilt, number)
                items = [manager.WEIGHTS[name] for name in weights]
                targets = dict.fromkeys(items, _target(built))
                restored = saved.restore(number, targets) if items else {}
            except Exception:
                if number in saved.steps():
                    raise  # or a training that goes on removed it for a newer one
            else:
                return number, found, built, [restored[item] for item in items]


def _target(built: Model) -> Any:
    """The parameters of a model, as shapes on devices."""
    return sharding.abstract(jax.eval_shape(built.init, jax.random.key(0)))


def _existing_step(saved: manager.Checkpoints, step: int | None) -> int:
    if step is not None and step in saved.steps():
        saved.check(step)
        return step
    newest = saved.newest()
    if newest is None:
        raise UsageError(
            f"{saved.directory} holds no complete checkpoint yet; wait for the first"
        )
    if step is not None:
        steps = saved.steps()
        raise UsageError(f"step={step}: {saved.directory} holds the steps {steps}")
    return newest
