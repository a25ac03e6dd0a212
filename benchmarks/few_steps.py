r"""Few-step models on moons or digits: sample quality after 1, 2 and 4 network calls.

    python -m benchmarks.few_steps --data=moons
    python -m benchmarks.few_steps --data=digits --seeds=1

Trains a teacher and its students with the functions of the commands, in processes of
one core each, and measures their samples. On moons: energy distance of 2,000 samples to
the test points (pairs of a point with itself included, so that real points do not get
0), and straightness of paths. On digits: Frechet distances of 1,000 samples to the
training examples in the features of a classifier, and of pixels. Prints mean and
standard deviation over seeds, and the CPU seconds of each part. Programs are compiled
for the first seed and read by the others.
"""

import argparse
import contextlib
import io
import os
import pathlib
import resource
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from multiprocessing.queues import Queue
from typing import NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from diffusionflow import metrics
from experiments.checkpointing import restore
from experiments.checkpointing.loaded import Loaded, Request
from experiments.config import build, distilled, overrides, schema
from experiments.data import sklearn_images, toy2d
from experiments.evaluation import features
from experiments.runtime import allocator
from experiments.sampling import compiled_sampler, conditions, requested
from experiments.sampling import pairs as pair_files
from experiments.training import loop
from experiments.visualization import sample_images

Score = Callable[[np.ndarray], dict[str, float]]
Rows = dict[str, list[float]]


def cpu_seconds(of_children: bool = False) -> float:
    """CPU seconds of this process, and of those it has waited for."""
    kinds = [resource.RUSAGE_SELF] + of_children * [resource.RUSAGE_CHILDREN]
    used = [resource.getrusage(kind) for kind in kinds]
    return sum(each.ru_utime + each.ru_stime for each in used)


class Timer:
    """CPU seconds of parts of a program, by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Times the `with` block, which prints nothing."""
        begin = cpu_seconds()
        with contextlib.redirect_stdout(io.StringIO()):
            yield
        self.seconds[name] = cpu_seconds() - begin
        print(f"  {name}: {self.seconds[name]:.0f} CPU s", flush=True)


def quiet(config: ConfigDict, num_steps: int, seed: int) -> ConfigDict:
    """The config with training alone: a checkpoint at the end, or of each stage."""
    method = build.method(config.distillation)
    stages = 1 if method is None else method.num_stages
    config.seed, config.num_steps, config.log.every = seed, num_steps, num_steps
    config.eval.every = config.samples.every = 0
    config.checkpoint.update(every=num_steps // stages, keep_best=0)
    return config


class Runs:
    """The runs of one seed, in a directory of their own.

    Args:
      folder: of the runs.
      seed: of all of them.
    """

    def __init__(self, folder: pathlib.Path, seed: int):
        self._folder, self._seed, self.timer = folder, seed, Timer()

    def teach(self, config: ConfigDict) -> str:
        """Trains the teacher; returns the name of its run."""
        with self.timer("teacher"):
            config = quiet(config, config.num_steps, self._seed)
            loop.train_and_evaluate(config, self._folder / "teacher")
        return "teacher"

    def distil(self, student: "Student") -> str:
        """Trains a student; returns the name of its run."""
        teacher = self._folder / "teacher"
        config = distilled.student(
            distilled.read_config(teacher, "teacher"),
            method=student.method,
            teacher=str(teacher),
            pairs=str(self._folder / PAIRS) if student.pairs else None,
        )
        with self.timer(student.name):
            loop.train_and_evaluate(
                quiet(config, student.num_steps, self._seed),
                self._folder / student.name,
            )
        return student.name

    def pairs(self, count: int) -> None:
        """Draws the teacher's pairs."""
        with self.timer("pairs"):
            request = pair_files.Request(
                num_samples=count, seed=self._seed, out=str(self._folder / PAIRS)
            )
            pair_files.write_pairs(self._folder / "teacher", request)

    def load(self, name: str, step: int | None = None) -> Loaded:
        """The averaged weights of a run, of one of its checkpoints."""
        return restore.load(self._folder / name, Request(step=step))

    def samples(self, name: str, draw: "Draw", count: int) -> np.ndarray:
        """Samples of a run, classes in turn, as stored values."""
        loaded = self.load(name, draw.step)
        section = dict(name=draw.sampler, num_steps=draw.calls, grid="uniform")
        sample_fn = compiled_sampler.make_sample_fn(
            loaded.model, section, guidance=1.0, batch_size=count, most=count
        )
        labels = conditions.labels_in_turn(count, loaded.model.num_classes)
        x = sample_fn(loaded.params, 10 + self._seed, conditions.Conditions(labels))
        return loaded.model.transform.to_stored(x)

    def straightness(self, name: str) -> float:
        """Mean straightness of paths, summed over the event."""
        loaded = self.load(name)
        request = loaded.request._replace(
            num_samples=pair_files.NUM_PATHS, sampler=HEUN
        )
        loaded = loaded._replace(request=request)
        given = requested.of_samples(loaded)
        found = pair_files.path_straightness(loaded, given)
        assert found is not None
        return found["mean"]


PAIRS = "pairs.npz"
HEUN = {"name": "heun(variable='u')", "num_steps": 50, "grid": "uniform"}


class Draw(NamedTuple):
    """Samples that are measured: sampler, network calls, checkpoint if not the last."""

    sampler: str
    calls: int
    step: int | None = None


class Student(NamedTuple):
    """A student that is trained, and what is drawn from it."""

    method: str
    num_steps: int
    draws: tuple[Draw, ...]
    pairs: bool = False

    @property
    def name(self) -> str:
        """Name of the run."""
        return self.method.partition("(")[0]


class Case(NamedTuple):
    """A data set: samples of each draw, those of the teacher, and its students."""

    num_samples: int
    teacher: tuple[Draw, ...]
    students: tuple[Student, ...]
    num_pairs: int = 0


JUMPS = Draw("flow_map", 1), Draw("flow_map", 2)
CASES = {
    "moons": Case(
        num_samples=2_000,
        teacher=(Draw("ddim", 1), Draw("ddim", 4), Draw("ddim", 64)),
        students=(
            Student("progressive(first=64)", 6 * 200, JUMPS[:1]),
            Student("reflow", 800, (Draw("ddim", 1),), pairs=True),
            Student("one_step", 800, JUMPS[:1], pairs=True),
            Student("meanflow", 4_000, JUMPS),
            Student("lagrangian", 1_000, JUMPS),
        ),
        num_pairs=8_000,
    ),
    "digits": Case(
        num_samples=1_000,
        teacher=(Draw("ddim", 1), Draw("ddim", 8), Draw("ddim", 40)),
        students=(
            Student(
                "progressive(first=32)",
                5 * 100,
                (JUMPS[0], Draw("flow_map", 2, 400), Draw("flow_map", 4, 300)),
            ),
            Student("meanflow", 800, (*JUMPS, Draw("flow_map", 4))),
        ),
    ),
}


class Part(NamedTuple):
    """What a run gave.

    Fields:
      name: of the run.
      samples: stored values, of each draw.
      straightness: mean over paths, where pairs are compared.
      seconds: CPU time, by what was done.
    """

    name: str
    samples: list[np.ndarray]
    straightness: float | None
    seconds: dict[str, float]


def part(folder: pathlib.Path, data: str, seed: int, student: Student | None) -> Part:
    """Trains the teacher or, where it is trained, a student of it, and draws.

    Args:
      folder: of the runs of the seed.
      data: name of the case.
      seed: of the runs.
      student: None for the teacher.
    """
    case, runs = CASES[data], Runs(folder, seed)
    if student is None:
        name, draws = runs.teach(teacher_config(data)), case.teacher
        if case.num_pairs:
            runs.pairs(case.num_pairs)
    else:
        name, draws = runs.distil(student), student.draws
    straightness = None
    if case.num_pairs and name in ("teacher", "reflow"):
        straightness = runs.straightness(name)
    samples = [runs.samples(name, draw, case.num_samples) for draw in draws]
    return Part(name, samples, straightness, runs.timer.seconds)


def measure(parts: list[Part], case: Case, score: Score) -> Rows:
    """Measures the samples of the teacher and of all students."""
    rows: Rows = {}
    draws = (case.teacher, *(student.draws for student in case.students))
    for found, of_run in zip(parts, draws, strict=True):
        for draw, x in zip(of_run, found.samples, strict=True):
            for metric, value in score(x).items():
                rows[f"{found.name}, {draw.calls} calls: {metric}"] = [value]
        if found.straightness is not None:
            rows[f"{found.name}: straightness"] = [found.straightness]
    return rows


def picture(runs: Runs, case: Case, path: pathlib.Path) -> None:
    """Writes rows of one noise and one label a column: the teacher, then students."""
    draws = [("teacher", case.teacher[-1])]
    for student in case.students:
        draws += [(student.name, each) for each in student.draws]
    rows = [runs.samples(name, each, 20)[:10] for name, each in draws]
    for name, each in draws:
        print(f"  a row: {name}, {each.calls} calls")
    levels = runs.load("teacher").model.transform.levels
    sample_images.grid(np.concatenate(rows), levels, 10).save(path)


def moons_score() -> Score:
    """Energy distance to the test points."""
    test = toy2d.moons(size=20_000, seed=0).test
    points = np.asarray(test.values[np.arange(len(test.labels))], np.float64)
    metric = metrics.energy(unbiased=False)

    def score(x: np.ndarray) -> dict[str, float]:
        return {"energy": float(metric(np.asarray(x, np.float64), points))}

    return score


def digits_score() -> Score:
    """Frechet distances to the training examples."""
    digits = sklearn_images.digits()
    maps = {
        "classifier": features.classifier(digits).features_fn,
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
    schema.settle(config)
    if name == "moons":
        config.num_steps, config.batch_size = 1_500, 128
        config.network.update(features=64, num_blocks=2, max_frequency=8.0)
    else:
        config.num_steps, config.batch_size = 1_200, 64
        config.network.update(channels=16, max_frequency=16.0)
    return config


def prepare(folder: pathlib.Path, cores: "Queue[int] | None" = None) -> None:
    """Sets up a process: its core, its memory, and the programs that all share.

    Args:
      folder: of the compiled programs.
      cores: one for each process, which Linux keeps it to; None for the one that
        measures.
    """
    if cores is not None and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {cores.get()})  # XLA's threads wait for each other
    allocator.keep_freed_memory()  # as the commands do
    jax.config.update("jax_compilation_cache_dir", str(folder / "programs"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def known_cores() -> list[int]:
    """Returns the numbers of the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def workers(count: int, folder: pathlib.Path) -> ProcessPoolExecutor:
    """Returns processes that run the parts, each on a core of its own."""
    context = get_context("spawn")
    cores = context.Queue()
    for core in known_cores()[:count]:
        cores.put(core)
    return ProcessPoolExecutor(
        count, context, initializer=prepare, initargs=(folder, cores)
    )


def measure_seeds(
    args: argparse.Namespace, folder: pathlib.Path
) -> tuple[Rows, list[float]]:
    """Measures all seeds, which share compiled programs; also their CPU seconds."""
    case, table, spent = CASES[args.data], defaultdict[str, list[float]](list), []
    with workers(args.processes, folder) as pool:
        for seed in range(args.seeds):
            print(f"seed {seed}", flush=True)
            of_seed = folder / f"seed{seed}", args.data, seed
            teacher = pool.submit(part, *of_seed, None)
            if not seed:
                score = moons_score() if args.data == "moons" else digits_score()
            teacher.result()
            students = [pool.submit(part, *of_seed, each) for each in case.students]
            parts = [each.result() for each in (teacher, *students)]
            spent.append(sum(sum(each.seconds.values()) for each in parts))
            for row, values in measure(parts, case, score).items():
                table[row] += values
                print(f"  {row} {values[0]:.5f}", flush=True)
            if args.picture is not None and seed == 0:
                picture(Runs(of_seed[0], seed), case, args.picture)
    return table, spent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", choices=CASES, default="moons")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--processes", type=int, help="one core each; default: 2")
    parser.add_argument("--picture", type=pathlib.Path, help="PNG of digits, seed 0")
    args = parser.parse_args()
    most = len(known_cores())
    args.processes = min(2, most) if args.processes is None else args.processes
    if not 1 <= args.processes <= most:
        parser.error(f"--processes={args.processes}: must be in [1, {most}], the cores")
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        prepare(folder)
        table, spent = measure_seeds(args, folder)
    print(f"mean and standard deviation of {args.seeds} seeds")
    for row, values in table.items():
        spread = np.std(values, ddof=1) if len(values) > 1 else float("nan")
        print(f"{row:45} {np.mean(values):.5f} +- {spread:.5f}")
    each = ", ".join(f"{seconds:.0f}" for seconds in spent)
    print(f"CPU seconds of each seed, of which the first compiles for all: {each}")
    print(f"in all, with imports and measurements: {cpu_seconds(of_children=True):.0f}")


if __name__ == "__main__":
    main()
