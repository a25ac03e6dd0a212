r"""Few-step models on moons or digits: sample quality after 1, 2 and 4 network calls.

    python -m benchmarks.few_steps --data=moons
    python -m benchmarks.few_steps --data=digits --seeds=1

Trains a teacher and its students with the functions of the commands, and measures their
samples. On moons: energy distance of 2,000 samples to the test points (pairs of a point
with itself included, so that real points do not get 0), and straightness of paths. On
digits: Frechet distances of 1,000 samples to the training examples in the features of a
classifier, and of pixels. Prints mean and standard deviation over seeds, and the CPU
seconds of each part.
"""

import argparse
import contextlib
import io
import pathlib
import resource
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from diffusionflow import metrics
from experiments import data
from experiments.checkpointing import restore
from experiments.config import distilled, overrides
from experiments.evaluation import features
from experiments.sampling import compiled_sampler, conditions
from experiments.sampling import pairs as pair_files
from experiments.training import loop

Score = Callable[[np.ndarray], dict[str, float]]
Rows = dict[str, list[float]]


class Timer:
    """CPU seconds of parts of a program, by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = defaultdict(list)

    @contextlib.contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Times the `with` block, which prints nothing."""
        begin = self._now()
        with contextlib.redirect_stdout(io.StringIO()):
            yield
        self.seconds[name].append(self._now() - begin)
        print(f"  {name}: {self.seconds[name][-1]:.0f} CPU s", flush=True)

    def _now(self) -> float:
        used = resource.getrusage(resource.RUSAGE_SELF)
        return used.ru_utime + used.ru_stime


def quiet(config: ConfigDict, num_steps: int, seed: int) -> ConfigDict:
    """The config with training alone: a checkpoint at the end, or of each stage."""
    stages = max(1, config.num_steps // config.checkpoint.every)
    staged = "progressive" in config.distillation.method
    config.seed, config.num_steps, config.log.every = seed, num_steps, num_steps
    config.eval.every = config.samples.every = 0
    every = num_steps // stages if staged else num_steps
    config.checkpoint.update(every=every, keep_best=0)
    return config


class Runs:
    """The runs of one seed, in a directory of their own.

    Args:
      folder: of the runs.
      teacher: config of the teacher.
      seed: of all of them.
      timer: of the parts.
    """

    def __init__(
        self, folder: pathlib.Path, teacher: ConfigDict, seed: int, timer: Timer
    ):
        self._folder, self._seed, self._timer = folder, seed, timer
        with timer("teacher"):
            config = quiet(teacher, teacher.num_steps, seed)
            loop.train_and_evaluate(config, folder / "teacher")
            (folder / "teacher").mkdir(exist_ok=True)

    def distil(
        self, method: str, num_steps: int, *, pairs: pathlib.Path | None = None
    ) -> str:
        """Trains a student; returns the name of its run."""
        name = method.partition("(")[0]
        teacher = self._folder / "teacher"
        config = distilled.student(
            distilled.read_config(teacher, "teacher"),
            method=method,
            teacher=str(teacher),
            pairs=None if pairs is None else str(pairs),
        )
        with self._timer(name):
            loop.train_and_evaluate(
                quiet(config, num_steps, self._seed), self._folder / name
            )
        return name

    def pairs(self, count: int) -> pathlib.Path:
        """Draws the teacher's pairs."""
        with self._timer("pairs"):
            request = pair_files.Request(
                num_samples=count, seed=self._seed, out=str(self._folder / "pairs")
            )
            return pair_files.draw_pairs(self._folder / "teacher", request)

    def load(self, name: str, step: int | None = None) -> restore.Loaded:
        """The averaged weights of a run, of one of its checkpoints."""
        return restore.load(self._folder / name, restore.Request(step=step))

    def samples(
        self, name: str, sampler: str, calls: int, count: int, step: int | None = None
    ) -> np.ndarray:
        """Samples of a run, classes in turn, as stored values."""
        loaded = self.load(name, step)
        section = dict(name=sampler, num_steps=calls, grid="uniform")
        draw_fn = compiled_sampler.make_draw_fn(
            loaded.model, section, guidance=1.0, batch_size=count, most=count
        )
        labels = conditions.labels_in_turn(count, loaded.model.num_classes)
        x = draw_fn(loaded.params, 10 + self._seed, conditions.Conditions(labels))
        return loaded.model.transform.to_stored(x)

    def straightness(self, name: str) -> float:
        """Mean straightness of paths, summed over the event."""
        loaded = self.load(name)
        request = loaded.request._replace(
            num_samples=pair_files.NUM_PATHS, sampler=HEUN
        )
        loaded = loaded._replace(request=request)
        given = conditions.of_samples(loaded)
        found = pair_files.path_straightness(loaded, given)
        assert found is not None
        return found["mean"]


HEUN = {"name": "heun(variable='u')", "num_steps": 50, "grid": "uniform"}


def moons(runs: Runs, score: Score) -> Rows:
    """Every method on moons: energy distances, and straightness."""
    rows: Rows = {}

    def add(row: str, name: str, sampler: str, calls: int, step: Any = None) -> None:
        for metric, value in score(
            runs.samples(name, sampler, calls, 2_000, step)
        ).items():
            rows.setdefault(f"{row}, {calls} calls: {metric}", []).append(value)

    for calls in (1, 4, 64):
        add("teacher, Euler", "teacher", "ddim", calls)
    name = runs.distil("progressive(first=64)", 6 * 500)
    add(name, name, "flow_map", 1)
    pairs = runs.pairs(20_000)
    name = runs.distil("reflow", 2_000, pairs=pairs)
    add(name, name, "ddim", 1)
    for each in ("teacher", name):
        rows[f"{each}: straightness"] = [runs.straightness(each)]
    name = runs.distil("one_step", 2_000, pairs=pairs)
    add(name, name, "flow_map", 1)
    for method, steps in (("meanflow", 4_000), ("lagrangian", 2_000)):
        name = runs.distil(method, steps)
        for calls in (1, 2):
            add(name, name, "flow_map", calls)
    return rows


def digits(runs: Runs, score: Score) -> Rows:
    """Progressive distillation and MeanFlow on digits: Frechet distances."""
    rows: Rows = {}

    def add(row: str, name: str, sampler: str, calls: int, step: Any = None) -> None:
        for metric, value in score(
            runs.samples(name, sampler, calls, 1_000, step)
        ).items():
            rows.setdefault(f"{row}, {calls} calls: {metric}", []).append(value)

    for calls in (1, 8, 40):
        add("teacher, Euler", "teacher", "ddim", calls)
    name = runs.distil("progressive(first=32)", 5 * 100)
    add(name, name, "flow_map", 1)
    add(name, name, "flow_map", 2, 400)
    name = runs.distil("meanflow", 800)
    for calls in (1, 2):
        add(name, name, "flow_map", calls)
    return rows


def moons_score(seed: int) -> Score:
    """Energy distance to the test points."""
    del seed
    test = data.moons(size=20_000, seed=0).test
    points = np.asarray(test.values[np.arange(len(test.labels))], np.float64)
    metric = metrics.energy(unbiased=False)

    def score(x: np.ndarray) -> dict[str, float]:
        return {"energy": float(metric(np.asarray(x, np.float64), points))}

    return score


def digits_score(seed: int) -> Score:
    """Frechet distances to the training examples."""
    digits = data.digits()
    maps = {
        "classifier": features.classifier(digits, seed=seed).features_fn,
        "pixels": features.pixels().features_fn,
    }
    to_float = lambda stored: np.asarray(digits.transform.to_float(stored))
    train = to_float(digits.train.values[np.arange(len(digits.train.labels))])
    metric = metrics.Frechet(allow_singular=True)
    real = {name: fn(train) for name, fn in maps.items()}

    def score(stored: np.ndarray) -> dict[str, float]:
        x = to_float(stored)
        return {name: float(metric(fn(x), real[name])) for name, fn in maps.items()}

    return score


def teacher_config(name: str) -> ConfigDict:
    """The teacher of the measurements: small, and of low frequencies in time."""
    config = overrides.load_config("toy2d" if name == "moons" else "digits")
    from experiments.config import schema

    schema.settle(config)
    if name == "moons":
        config.num_steps, config.network.max_frequency = 3_000, 8.0
    else:
        config.num_steps, config.batch_size = 1_200, 64
        config.network.update(channels=16, max_frequency=16.0)
    return config


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", choices=("moons", "digits"), default="moons")
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    measure, score = (
        (moons, moons_score) if args.data == "moons" else (digits, digits_score)
    )
    score_fn, timer, table = score(0), Timer(), defaultdict(list)
    for seed in range(args.seeds):
        print(f"seed {seed}", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            runs = Runs(pathlib.Path(folder), teacher_config(args.data), seed, timer)
            for row, values in measure(runs, score_fn).items():
                table[row] += values
                print(f"  {row} {values[0]:.5f}", flush=True)
    print(f"mean and standard deviation of {args.seeds} seeds")
    for row, values in table.items():
        spread = np.std(values, ddof=1) if len(values) > 1 else float("nan")
        print(f"{row:45} {np.mean(values):.5f} +- {spread:.5f}")
    total = sum(np.mean(each) for each in timer.seconds.values())
    print(f"CPU seconds of a seed, compilation included: {total:.0f}")


if __name__ == "__main__":
    main()
