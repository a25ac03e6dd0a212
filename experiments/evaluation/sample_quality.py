"""Sample quality against NFE, with the held-out examples as a baseline."""

import pathlib
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from threadpoolctl import threadpool_limits

from diffusionflow import metrics, predictions, samplers
from experiments.checkpointing import restore
from experiments.config import build
from experiments.config.model import Model
from experiments.data import DataSet, Examples
from experiments.evaluation import features
from experiments.runtime.errors import UsageError
from experiments.sampling import generate

METRICS = {
    "frechet": metrics.Frechet(allow_singular=True),
    "mmd": metrics.kid(),
    "energy": metrics.energy(),
}


class Settings(NamedTuple):
    """What is drawn and measured.

    Fields:
      samplers: such as `"ddim@25"`: name, steps; `"ddim@25@cosine"` names a grid too.
      num_samples: of each.
      inception: file of Inception's weights, for FID; empty for none.
      features: users' own functions `module:name`, values [n, *event] -> [n, features].
      num_resamples: of the bootstrap.
      seed: of samples, features and bootstrap.
    """

    samplers: tuple[str, ...]
    num_samples: int = 2_000
    inception: str = ""
    features: tuple[str, ...] = ()
    num_resamples: int = 100
    seed: int = 0


def section(text: str, default: dict[str, Any]) -> dict[str, Any]:
    """The section `sampler` of a config that `name@steps` or `name@steps@grid` means.

    Raises:
      UsageError: it is written otherwise, or the sampler is unknown.
    """
    match = re.fullmatch(r"([^@]+)@(\d+)(?:@([^@]+))?", text)
    if match is None:
        raise UsageError(
            f"sampler={text!r}: write name@steps or name@steps@grid, such as ddim@25"
        )
    name, steps, grid = match.groups()
    found = {
        "name": name,
        "num_steps": int(steps),
        "grid": default["grid"] if grid is None else grid,
    }
    build.sampler(found)
    return found


def maps(dataset: DataSet, settings: Settings) -> list[features.Features]:
    """What is compared: values, and for images features of one or two networks."""
    found = [features.pixels()]
    if len(dataset.event_shape) == 3:
        if dataset.num_classes > 1 and len(dataset.train.labels) >= features.BATCH:
            found.append(features.classifier(dataset, seed=settings.seed))
        if settings.inception:
            found.append(features.inception(settings.inception))
    return found + [features.own(text) for text in settings.features]


class SampleEvaluator:
    """Compares samples with the training examples.

    Args:
      model: of the run, for the transform.
      dataset: of the run; the held-out examples tell what real data would get.
      settings: of the comparison.
    """

    def __init__(self, model: Model, dataset: DataSet, settings: Settings):
        self._model, self._settings = model, settings
        self._maps = maps(dataset, settings)
        self._digest, self.held_out = dataset.identity(), dataset.test
        self._real, self._held_out = map(self._features, (dataset.train, dataset.test))

    def _features(self, examples: Examples) -> dict[str, np.ndarray]:
        return self.features(examples.values[np.arange(len(examples.labels))])

    def features(self, stored: np.ndarray) -> dict[str, np.ndarray]:
        """Features of stored values, `[n, features]`, by name."""
        x = np.asarray(self._model.transform.to_float(stored))
        return {found.name: found.features_fn(x) for found in self._maps}

    def measured(
        self, found: dict[str, np.ndarray]
    ) -> tuple[list[dict[str, Any]], np.ndarray]:
        """Every metric of every kind of features, with errors and recipe.

        And the resamples of each, `[metrics, num_resamples]`: see `metrics.subtract`.
        """
        key = jax.random.key(self._settings.seed)
        reference = f"training examples: {self._digest}"
        rows, every = [], []
        for kind, values in found.items():
            for name, metric in METRICS.items():
                with threadpool_limits(_threads(values.shape[1])):
                    estimate, resamples = metrics.measure_resampled(
                        key,
                        metric,
                        values,
                        self._real[kind],
                        features=kind,
                        reference=reference,
                        num_resamples=self._settings.num_resamples,
                    )
                rows.append({"metric": name, **estimate._asdict()})
                every.append(resamples)
        return rows, np.stack(every)

    def floor(self) -> list[dict[str, Any]]:
        """What the held-out examples get."""
        return self.measured(self._held_out)[0]

    def at_the_floors_count(self, found: dict[str, np.ndarray]) -> list[dict[str, Any]]:
        """What the first samples get, as many as the floor has."""
        count = len(next(iter(self._held_out.values())))
        first = {kind: values[:count] for kind, values in found.items()}
        return self.measured(first)[0]

    def num_calls(self, request: restore.Request) -> int:
        """Network calls that a sample takes."""
        objective = self._model.objective
        zero_fn = predictions.denoiser(
            _zero, kind=objective.kind, schedule=objective.schedule
        )
        counted = []

        def run(key: jax.Array, z: jax.Array) -> jax.Array:
            result = samplers.sample(
                key,
                zero_fn,
                z,
                build.grid(request.sampler, objective.schedule),
                sampler=build.sampler(request.sampler),
                schedule=objective.schedule,
            )
            counted.append(result.nfe)
            return result.x

        shape = (1, *self._model.event_shape)  # traced, neither compiled nor run
        z = jax.ShapeDtypeStruct(shape, jnp.float32)
        jax.eval_shape(run, jax.random.key(0), z)
        return int(counted[0]) * (1 if request.guidance in (0, 1) else 2)

    def accuracy(self) -> float | None:
        """Of the classifier whose features are compared, on the held-out examples."""
        return next((m.accuracy for m in self._maps if m.accuracy is not None), None)


def _zero(z: jax.Array, t: jax.Array) -> jax.Array:
    del t
    return jnp.zeros_like(z)


def _threads(features: int) -> int | None:
    """Of linear algebra: one where matrices are so small that more only wait."""
    return 1 if features <= 256 else None


def evaluate_samples(
    workdir: pathlib.Path, judge: SampleEvaluator, loaded: restore.Loaded
) -> tuple[dict[str, Any], np.ndarray]:
    """Draws by one sampler, or finds what was drawn, and measures it.

    Args:
      workdir: of the run.
      judge: of its data.
      loaded: the weights, with a complete request.

    Returns:
      The results as plain values, and the resamples of its metrics.
    """
    path = generate.drawn(workdir, loaded, judge.held_out)
    request = loaded.request
    with np.load(path) as file:
        stored = file["samples"]
    found = judge.features(stored)
    rows, resamples = judge.measured(found)
    told = {
        "file": path.relative_to(workdir).as_posix(),
        "sampler": dict(request.sampler),
        "guidance": request.guidance,
        "nfe": judge.num_calls(request),
        "count": len(stored),
        "metrics": rows,
        "at_the_floors_count": judge.at_the_floors_count(found),
    }
    return told, resamples


def listed(settings: Settings, default: dict[str, Any]) -> Sequence[dict[str, Any]]:
    """The sections of all samplers of the settings."""
    return [section(text, default) for text in settings.samplers]
