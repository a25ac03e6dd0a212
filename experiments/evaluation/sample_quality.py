"""Measures sample quality against NFE, with the held-out set as baseline."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from threadpoolctl import threadpool_limits

from diffusionflow import metrics, predictions, samplers
from experiments.checkpointing.loaded import Request
from experiments.config import build
from experiments.config.model import Model
from experiments.data.base import DataSet, Examples
from experiments.evaluation import features
from experiments.runtime import progress
from experiments.runtime.errors import UsageError

METRICS = {
    "frechet": metrics.Frechet(allow_singular=True),
    "mmd": metrics.kid(),
    "energy": metrics.energy(),
}


class Settings(NamedTuple):
    """What is sampled and measured.

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


def sampler_section(text: str, default: dict[str, Any]) -> dict[str, Any]:
    """Parses `name@steps` or `name@steps@grid` to the section `sampler` of a config.

    Raises:
      UsageError: the syntax is another one, or the sampler is unknown.
    """
    match = re.fullmatch(r"([^@]+)@(\d+)(?:@([^@]+))?", text)
    if match is None:
        raise UsageError(
            f"sampler={text!r}: write name@steps or name@steps@grid, such as ddim@25"
        )
    name, steps, grid = match.groups()
    section = {
        "name": name,
        "num_steps": int(steps),
        "grid": default["grid"] if grid is None else grid,
    }
    build.sampler(section)
    return section


def feature_maps(dataset: DataSet, settings: Settings) -> list[features.Features]:
    """Makes the features to compare: values, for images of one or two networks too."""
    listed = [features.pixels()]
    if len(dataset.event_shape) == 3:
        if dataset.num_classes > 1 and len(dataset.train.labels) >= features.BATCH:
            with progress.PartProgress("sample quality, training the classifier"):
                listed.append(features.classifier(dataset, seed=settings.seed))
        if settings.inception:
            listed.append(features.inception(settings.inception))
    return listed + [features.own(text) for text in settings.features]


class SampleEvaluator:
    """Compares samples with the training examples.

    Args:
      model: of the run, for the transform.
      dataset: of the run; its held-out examples are the baseline.
      settings: of the comparison.
    """

    def __init__(self, model: Model, dataset: DataSet, settings: Settings):
        self._model, self._settings = model, settings
        self._maps = feature_maps(dataset, settings)
        self._digest = dataset.identity()
        self._train = self._features(dataset.train, "training examples")
        self._held_out = self._features(dataset.test, "held-out examples")

    def _features(self, examples: Examples, what: str) -> dict[str, np.ndarray]:
        return self.features(examples.values[np.arange(len(examples.labels))], what)

    def features(self, stored: np.ndarray, what: str) -> dict[str, np.ndarray]:
        """Computes features of stored values, `[n, features]`, by name.

        Args:
          stored: `[n, *event]`.
          what: they are, for the progress.
        """
        x = np.asarray(self._model.transform.to_float(stored))
        by_name = {}
        with progress.PartProgress(
            f"sample quality, features of {what}", len(self._maps), "kinds"
        ) as reported:
            for each in self._maps:
                by_name[each.name] = each.features_fn(x)
                reported.advance()
        return by_name

    def measure(
        self, by_name: dict[str, np.ndarray], what: str
    ) -> tuple[list[dict[str, Any]], np.ndarray]:
        """Computes every metric of every kind of features, with errors and recipe.

        Args:
          by_name: the features, `[n, features]`, by their name.
          what: they are of, for the progress.

        Returns:
          The estimates as rows, and the resamples of each, `[metrics, num_resamples]`:
          see `metrics.subtract`.
        """
        key = jax.random.key(self._settings.seed)
        reference = f"training examples: {self._digest}"
        rows, every = [], []
        total = len(by_name) * len(METRICS)
        with progress.PartProgress(
            f"sample quality, metrics of {what}", total, "metrics"
        ) as reported:
            for kind, values in by_name.items():
                for name, metric in METRICS.items():
                    with threadpool_limits(_threads(values.shape[1])):
                        estimate, resamples = metrics.measure_resampled(
                            key,
                            metric,
                            values,
                            self._train[kind],
                            features=kind,
                            reference=reference,
                            num_resamples=self._settings.num_resamples,
                        )
                    rows.append({"metric": name, **estimate._asdict()})
                    every.append(resamples)
                    reported.advance()
        return rows, np.stack(every)

    def held_out_baseline(self) -> list[dict[str, Any]]:
        """Computes the metrics of the held-out examples."""
        return self.measure(self._held_out, "held-out examples")[0]

    def metrics_at_baseline_size(
        self, by_name: dict[str, np.ndarray], what: str
    ) -> list[dict[str, Any]]:
        """Computes metrics of the first n samples, n the number of held-out examples.

        They compare with the held-out baseline: the Frechet distance depends on n.
        """
        count = len(next(iter(self._held_out.values())))
        first = {kind: values[:count] for kind, values in by_name.items()}
        return self.measure(first, f"the first {count:,} {what}")[0]

    def nfe(self, request: Request) -> int:
        """Counts the function evaluations of the network for a sample."""
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
        """Returns the accuracy of the classifier on the held-out examples, or None."""
        return next((m.accuracy for m in self._maps if m.accuracy is not None), None)


def _zero(z: jax.Array, t: jax.Array) -> jax.Array:
    del t
    return jnp.zeros_like(z)


def _threads(features: int) -> int | None:
    """Limits threads of linear algebra to one where the matrices are small."""
    return 1 if features <= 256 else None


def evaluate_samples(
    evaluator: SampleEvaluator, request: Request, stored: np.ndarray
) -> tuple[dict[str, Any], np.ndarray]:
    """Measures the quality of the samples of one sampler.

    Args:
      evaluator: of the run's data.
      request: by which they were sampled, complete.
      stored: stored values `[n, *event]`.

    Returns:
      The results as plain values, and the resamples of its metrics.
    """
    what = f"samples of {sampler_text(request.sampler)}"
    by_name = evaluator.features(stored, what)
    rows, resamples = evaluator.measure(by_name, what)
    row = {
        "sampler": dict(request.sampler),
        "guidance": request.guidance,
        "nfe": evaluator.nfe(request),
        "count": len(stored),
        "metrics": rows,
        "metrics_at_baseline_size": evaluator.metrics_at_baseline_size(by_name, what),
    }
    return row, resamples


def sampler_sections(
    settings: Settings, default: dict[str, Any]
) -> Sequence[dict[str, Any]]:
    """Parses all samplers of the settings."""
    return [sampler_section(text, default) for text in settings.samplers]


def sampler_text(section: Mapping[str, Any]) -> str:
    """Formats a section `sampler` as `name@steps@grid`."""
    return "{name}@{num_steps}@{grid}".format(**section)
