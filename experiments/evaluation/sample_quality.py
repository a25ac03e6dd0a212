"""Measures sample quality against NFE, with the held-out set as baseline."""

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from threadpoolctl import threadpool_limits

from diffusionflow import metrics, predictions, samplers
from experiments.checkpointing.loaded import Request
from experiments.config import build, elsewhere, grid_files
from experiments.config.model import Model
from experiments.data.base import DataSet, Examples
from experiments.evaluation import features
from experiments.runtime import progress
from experiments.runtime.errors import UsageError, naming, require

METRICS = {
    "frechet": metrics.Frechet(),
    "mmd": metrics.kid(),
    "energy": metrics.energy(),
}
MOST_STEPS = 10**6  # of a sampler


class Settings(NamedTuple):
    """What is sampled and measured.

    Fields:
      samplers: such as `"ddim@25"`: name, steps; `"ddim@25@cosine"` names a grid too.
      num_samples: of each.
      inception: file of Inception's weights, for FID; empty for none.
      features: users' own functions `module:name`, values [n, *event] -> [n, features].
      num_resamples: of the bootstrap.
      seed: of samples, features and bootstrap.
      num_reference: training examples, at most, that samples are compared with.
    """

    samplers: tuple[str, ...]
    num_samples: int = 2_000
    inception: str = ""
    features: tuple[str, ...] = ()
    num_resamples: int = 100
    seed: int = 0
    num_reference: int = 10_000


def sampler_section(text: str, default: dict[str, Any]) -> dict[str, Any]:
    """Parses `name@steps` or `name@steps@grid` to the section `sampler` of a config.

    Raises:
      UsageError: the syntax is another one, or the sampler is unknown.
    """
    match = re.fullmatch(r"([^@]+)@(\d+)(?:@([^@]+|.+\.json(?:#\w+)?))?", text)
    if match is None:
        raise UsageError(
            f"sampler={text!r}: write name@steps or name@steps@grid, such as ddim@25"
        )
    name, steps, grid = match.groups()
    inside = len(steps) <= 7 and 1 <= int(steps) <= MOST_STEPS
    require("sampler", text, inside, f"of 1 to {MOST_STEPS} steps")
    given = {"name": name, "num_steps": int(steps)}
    given |= {} if grid is None else {"grid": grid}
    section = elsewhere.completed({"grid": default["grid"]}, given)
    build.sampler(section)
    return section


def feature_maps(
    dataset: DataSet,
    settings: Settings,
    leave_out: Collection[str],
    asked: Collection[features.Features],
) -> list[features.Features]:
    """Makes the features to compare: values, of a classifier of images, and `asked`."""
    listed = [] if "pixels" in leave_out else [features.pixels()]
    if len(dataset.event_shape) == 3:
        count = len(dataset.train.labels)
        labelled = dataset.num_classes > 1 and count >= features.BATCH
        if labelled and "classifier" not in leave_out:
            epochs = features.epochs_of(count)
            with progress.PartProgress(
                "sample quality, training the classifier", epochs, "epochs"
            ) as reported:
                listed.append(
                    features.classifier(
                        dataset,
                        seed=settings.seed,
                        epochs=epochs,
                        advance_fn=reported.advance,
                    )
                )
    return [*listed, *asked]


def asked_features(
    settings: Settings, event_shape: tuple[int, ...]
) -> list[features.Features]:
    """Makes the features that a command line names, which are looked at first.

    Args:
      settings: of the samples.
      event_shape: of the data.

    Raises:
      UsageError: they cannot be made.
    """
    own = [features.own(text) for text in settings.features]
    if not settings.inception:
        return own
    if len(event_shape) != 3 or event_shape[-1] not in (1, 3):
        raise UsageError(
            f"--inception={settings.inception}: data of shape {list(event_shape)} are "
            "no images [height, width, 1 or 3], which Inception takes; leave it out"
        )
    with naming("--inception"), progress.announced("reading Inception's weights"):
        return [features.inception(settings.inception), *own]


class SampleEvaluator:
    """Compares samples with the training examples.

    Args:
      model: of the run, for the transform.
      dataset: of the run; its held-out examples are the baseline.
      settings: of the comparison.
      leave_out: kinds of features and metrics that are not computed.
      asked: further features, of `asked_features`.
    """

    def __init__(
        self,
        model: Model,
        dataset: DataSet,
        settings: Settings,
        leave_out: Collection[str],
        asked: Collection[features.Features],
    ):
        self._model, self._settings = model, settings
        self._maps = feature_maps(dataset, settings, leave_out, asked)
        self._metrics = {
            name: metric for name, metric in METRICS.items() if name not in leave_out
        }
        self._memos: dict[tuple[str, str], metrics.Memo] = {}
        self._reference = f"training examples: {dataset.identity()}"
        self._count = len(dataset.test.labels)
        values = dataset.training_values(self._reference_rows(dataset.train))
        self._train = self.features(values, "training examples")
        held_out = dataset.test.values[np.arange(self._count)]
        self._held_out = self.features(held_out, "held-out examples")

    def _reference_rows(self, examples: Examples) -> np.ndarray:
        """Chooses the training examples that samples are compared with."""
        rows = np.arange(len(examples.labels))
        if len(rows) > (most := self._settings.num_reference):
            shuffled = np.random.RandomState(self._settings.seed).permutation(rows)
            rows = np.sort(shuffled[:most])
            self._reference += f", {most} of them, shuffled by {self._settings.seed}"
        return rows

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

        The Frechet distance is left out where a covariance would have no full rank: it
        would be mostly bias there.

        Args:
          by_name: the features, `[n, features]`, by their name.
          what: they are of, for the progress.

        Returns:
          The estimates as rows, and the resamples of each, `[metrics, num_resamples]`:
          see `metrics.subtract`.
        """
        pairs = [
            (name, kind)
            for kind, values in by_name.items()
            for name in self._metrics
            if name != "frechet" or has_full_rank(values, self._train[kind])
        ]
        rows = []
        every = np.zeros((len(pairs), self._settings.num_resamples))
        with progress.PartProgress(
            f"sample quality, metrics of {what}", len(pairs), "metrics"
        ) as reported:
            for number, (name, kind) in enumerate(pairs):
                estimate, every[number] = self._measure(name, kind, by_name[kind])
                rows.append({"metric": name, **estimate._asdict()})
                reported.advance()
        return rows, every

    def _measure(
        self, name: str, kind: str, values: np.ndarray
    ) -> tuple[metrics.Estimate, np.ndarray]:
        """Measures features of one kind; what depends on the data alone is kept."""
        with threadpool_limits(threads(values.shape[1])):
            return metrics.measure_resampled(
                jax.random.key(self._settings.seed),
                self._metrics[name],
                values,
                self._train[kind],
                features=kind,
                reference=self._reference,
                num_resamples=self._settings.num_resamples,
                memo=self._memos.setdefault((name, kind), metrics.Memo()),
            )

    @property
    def baseline_count(self) -> int:
        """How many held-out examples compare with as many samples, the fewer of both.

        Metrics of different counts do not compare: the Frechet distance depends on it.
        """
        return min(self._count, self._settings.num_samples)

    def held_out_baseline(self) -> list[dict[str, Any]]:
        """Computes the metrics of the first held-out examples, `baseline_count`."""
        count, there = self.baseline_count, self._count
        which = "held-out examples"
        if count < there:
            which = f"the first {count:,} {which}"
        return self.measure(_first(self._held_out, count), which)[0]

    def metrics_at_baseline_size(
        self, by_name: dict[str, np.ndarray], what: str
    ) -> list[dict[str, Any]]:
        """Computes the metrics of the first samples, `baseline_count`."""
        count = self.baseline_count
        return self.measure(_first(by_name, count), f"the first {count:,} {what}")[0]

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


def has_full_rank(*samples: np.ndarray) -> bool:
    """Returns whether the covariances of sets `[n, features]` can have full rank."""
    return all(len(x) > x.shape[1] for x in samples)


def _first(by_name: dict[str, np.ndarray], count: int) -> dict[str, np.ndarray]:
    return {kind: values[:count] for kind, values in by_name.items()}


def _zero(z: jax.Array, t: jax.Array) -> jax.Array:
    del t
    return jnp.zeros_like(z)


def threads(features: int) -> int | None:
    """Returns the most threads of linear algebra for a metric; None for no limit.

    Of so few features several threads wait for each other where other programs run.
    """
    return 1 if features <= 1_024 else None


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
    at_baseline_size = rows
    if evaluator.baseline_count < len(stored):
        at_baseline_size = evaluator.metrics_at_baseline_size(by_name, what)
    row = {
        "sampler": grid_files.recorded(request.sampler),
        "guidance": request.guidance,
        "nfe": evaluator.nfe(request),
        "count": len(stored),
        "metrics": rows,
        "metrics_at_baseline_size": at_baseline_size,
    }
    return row, resamples


def sampler_sections(
    settings: Settings, default: dict[str, Any]
) -> Sequence[dict[str, Any]]:
    """Parses all samplers of the settings."""
    return [sampler_section(text, default) for text in settings.samplers]


def recorded_samplers(settings: Settings, default: dict[str, Any]) -> list[str]:
    """Lists the samplers as results record them: with the digest of a grid's file."""
    sections = sampler_sections(settings, default)
    return [
        sampler_text(section) if grid_files.is_file(section["grid"]) else text
        for text, section in zip(settings.samplers, sections, strict=True)
    ]


def sampler_text(section: Mapping[str, Any]) -> str:
    """Formats a section `sampler` as `name@steps@grid`, for people."""
    return "{name}@{num_steps}@{grid}".format(**grid_files.recorded(section))
