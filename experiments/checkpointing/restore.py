"""Weights of a run and what they mean, from one of its checkpoints."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax

from experiments.checkpointing import manager, metadata, posthoc_ema
from experiments.config import build, external, model
from experiments.config.model import Model
from experiments.data import DataSet, class_labels
from experiments.runtime import pytrees, sharding
from experiments.runtime.errors import UsageError, require


class Request(NamedTuple):
    """What to draw from a run; None means what the run's config says.

    Fields:
      num_samples: how many.
      label: of all samples, the number of a class or its name; None for all classes in
        turn.
      conditions: path of the vectors, `.npy` or `.npz`, that the samples have in turn;
        None for those of the held-out examples.
      seed: of the samples.
      batch_size: see `drawing.make_draw_fn`.
      shard_size: samples after which a draw can go on.
      guidance: scale, or None.
      weights: "ema" or "raw".
      sigma_rel: width of the average, reconstructed from what the run stored; None for
        the one that it tracks.
      step: of the checkpoint, or None for the newest.
      out: path of the files without suffix, or None for one in the workdir.
      sampler: entries of the section `sampler` that differ from the config.
      edit: options of `sampling.edit_options` that are given.
    """

    num_samples: int = 100
    label: int | str | None = None
    conditions: str | None = None
    seed: int = 0
    batch_size: int = 128
    shard_size: int = 1024
    guidance: float | None = None
    weights: str = "ema"
    sigma_rel: float | None = None
    step: int | None = None
    out: str | None = None
    sampler: Mapping[str, Any] = {}
    edit: Mapping[str, Any] = {}


class Loaded(NamedTuple):
    """What a checkpoint gives to draw from.

    Fields:
      request: completed by the run's config.
      identity: of the run.
      model: of the run.
      params: the weights that are asked for.
      digest: of them.
    """

    request: Request
    identity: Mapping[str, Any]
    model: Model
    params: Any
    digest: str

    @property
    def config(self) -> Mapping[str, Any]:
        """Of the run."""
        return self.identity["config"]


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
    completed, found, built, every = _open(workdir, request, names)
    if request.sigma_rel is not None:
        require("weights", request.weights, request.weights == "ema", "ema")
        average, error = posthoc_ema.reconstruct(
            workdir,
            request.sigma_rel,
            step=completed.step,
            found=found,
            target=_target(built),
        )
        print(f"average of width {request.sigma_rel:g}: profile off by {error:.1%}")
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
    """What `load` gives, read without weights: `params` None and an empty digest."""
    completed, found, built, _ = _open(workdir, request, ())
    return Loaded(completed, found, built, None, "")


def _completed(
    request: Request, step: int, found: Mapping[str, Any], built: Model
) -> Request:
    """A request with what the run's config says, its label a number."""
    config, label = found["config"], request.label
    if label is not None:
        names = found["examples"].get("class_names", ())
        label = class_labels.class_number(label, built.num_classes, names)
    return request._replace(
        step=step,
        label=label,
        guidance=config["guidance"] if request.guidance is None else request.guidance,
        sampler=config["sampler"] | request.sampler,
    )


def check_data(loaded: Loaded, dataset: DataSet) -> None:
    """Raises a `UsageError` unless these are the data that a run was trained on."""
    there, here = loaded.identity["examples"], dataset.identity()
    changed = metadata.diff({"examples": there}, {"examples": here})
    if changed:
        raise UsageError(
            f"the run was trained on other data ({'; '.join(changed)}): their held-out "
            "examples are other ones"
        )


def real_data(loaded: Loaded) -> DataSet:
    """The data set that a run's samples stand for: its own, or its first teacher's.

    Raises:
      UsageError: it cannot be read, or has other examples than it had.
    """
    dataset = build.dataset(loaded.config["data"])
    check_data(loaded, dataset)
    if dataset.original is None:
        return dataset
    found = build.dataset(dataset.original["data"])
    there, here = dataset.original["examples"], found.identity()
    if metadata.diff({"examples": there}, {"examples": here}):
        raise UsageError(
            f"the pairs are of a model of {there}, and {dataset.original['data']} is "
            f"{here} now; config.data.original names another place of the same"
        )
    return found


def _open(
    workdir: pathlib.Path, request: Request, weights: Sequence[str]
) -> tuple[Request, Mapping[str, Any], Model, list[Any]]:
    """`(completed request, identity, model, weights)` of its checkpoint."""
    with manager.Checkpoints(workdir, read_only=True) as saved:
        while True:
            number = _existing_step(saved, request.step)
            try:
                found = saved.identity(number)
                metadata.check_format(found)
                external.find_again(found["modules"], workdir)
                built = model.from_identity(found)
                rebuilt = metadata.make(found["config"], built, found["examples"])
                rebuilt["modules"] = found["modules"]  # a change was printed
                metadata.check_compatible(found, rebuilt, number)
                completed = _completed(request, number, found, built)
                items = [manager.WEIGHTS[name] for name in weights]
                targets = dict.fromkeys(items, _target(built))
                restored = saved.restore(number, targets) if items else {}
            except Exception:
                if number in saved.steps():
                    raise  # or a training beside removed it, and has a newer one
            else:
                return completed, found, built, [restored[item] for item in items]


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
