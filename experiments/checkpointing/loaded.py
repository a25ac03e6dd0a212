"""What is sampled from a run, what its checkpoint gives for that, and its data."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from experiments.checkpointing import metadata
from experiments.config import build
from experiments.config.model import Model
from experiments.data.base import DataSet
from experiments.runtime.errors import UsageError


class Request(NamedTuple):
    """What to sample from a run; None means what the run's config says.

    Fields:
      num_samples: how many.
      label: of all samples, the number of a class or its name; None for all classes in
        turn.
      conditions: path of the vectors, `.npy` or `.npz`, that the samples have in turn;
        None for those of the held-out examples.
      seed: of the samples.
      batch_size: see `compiled_sampler.make_sample_fn`.
      shard_size: samples per file, after which sampling can resume.
      guidance: scale, or None.
      weights: "ema" or "raw".
      sigma_rel: width of the average, reconstructed from what the run stored; None for
        the one that it tracks.
      step: of the checkpoint, or None for the newest.
      out: path of the files without suffix, or None for one in the workdir.
      sampler: entries of the section `sampler` that differ from the config.
      edit: options of `sampling.edit_options` that are given.
      autoencoder: folder of the one that decodes samples into pictures, or None.
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
    autoencoder: str | None = None


class Loaded(NamedTuple):
    """What a checkpoint gives to sample from.

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


def check_data(loaded: Loaded, dataset: DataSet) -> None:
    """Raises a `UsageError` unless these are the data that a run was trained on."""
    there, here = loaded.identity["examples"], dataset.identity()
    changed = metadata.diff({"examples": there}, {"examples": here})
    if changed:
        raise UsageError(
            f"the run was trained on other data ({'; '.join(changed)}): put back the "
            "files that it was trained on, or evaluate a run that was trained on these"
        )


def real_data(loaded: Loaded) -> DataSet:
    """Reads the data that a run's samples stand for: its own, or its first teacher's.

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
            f"the pairs were drawn from a model that was trained on {there}, and "
            f"{dataset.original['data']} is {here} now: put these data back, or name "
            "where they are by config.data.original"
        )
    return found
