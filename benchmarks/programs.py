"""Counts programs that JAX compiles for the work around a network, and their time.

    python -m benchmarks.programs
    python -m benchmarks.programs --parts --tests="tests/core/test_grids.py -n 0"

Each part is a process of its own, without a compilation cache on disk:

- `plans`: `samplers.plan` of every sampler by name on each of `SCHEDULES`, then all of
  it with one step more, and once more with as many;
- `objectives`: `total_weight` of every published recipe, then `same_objective` of every
  pair;
- `grids`: every grid, on each of `SCHEDULES` where it needs one, then with one step
  more;
- `config`: what a training checks before it reads data, of `configs/digits.py`;
- `--tests`: pytest with the given arguments and an empty compilation cache, summed over
  its workers. Commands that tests start are not counted.

Columns: programs that XLA compiled, programs loaded from the cache on disk, programs
lowered to MLIR, seconds of compiling (loads left out) and of lowering, and seconds of
everything. A program that is still in memory is in no column.
"""

import argparse
import itertools
import json
import os
import pathlib
import shlex
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import jax

from benchmarks import protocol

ROOT = pathlib.Path(__file__).resolve().parent.parent
NUM_STEPS = 50
LOGSNR_RANGE = (-5.0, 9.0)  # every published recipe reaches it
SCHEDULES = ("flow_matching", "cosine", "linear_beta", "linear_betas")
COMPILED = "/jax/core/compile/backend_compile_duration"  # or loaded
LOWERED = "/jax/core/compile/jaxpr_to_mlir_module_duration"
LOADED = "/jax/compilation_cache/cache_retrieval_time_sec"
TITLES = {
    "compiled": "compiled",
    "loaded": "loaded",
    "lowered": "lowered",
    "compile_seconds": "compiling, s",
    "lower_seconds": "lowering, s",
    "wall_seconds": "all, s",
}
REPORTS = "PROGRAMS_REPORTS"  # variable: where a process of pytest leaves its counts


class Counts:
    """Counts what JAX reports of its compiler from now on, by event."""

    def __init__(self):
        self._seconds: defaultdict[str, list[float]] = defaultdict(list)
        jax.monitoring.register_event_duration_secs_listener(self._note)
        self._start = time.perf_counter()

    def _note(self, event: str, seconds: float, **_: Any) -> None:
        if event in (COMPILED, LOWERED, LOADED):
            self._seconds[event].append(seconds)

    def take(self) -> dict[str, float]:
        """Returns the counts and seconds since the last call."""
        all_, lowered, loaded = (
            self._seconds.pop(event, []) for event in (COMPILED, LOWERED, LOADED)
        )
        now = time.perf_counter()
        wall, self._start = now - self._start, now
        return dict(
            compiled=len(all_) - len(loaded),
            loaded=len(loaded),
            lowered=len(lowered),
            compile_seconds=sum(all_) - sum(loaded),
            lower_seconds=sum(lowered),
            wall_seconds=wall,
        )


def plans() -> Iterator[str]:
    """Plans every sampler; yields a label after each kind."""
    from diffusionflow import grids, samplers
    from experiments.config import build, registry

    chosen = [build.sampler({"name": name}) for name in registry.SAMPLERS]
    each_schedule = [registry.SCHEDULES[name]() for name in SCHEDULES]
    yield "imports, samplers, schedules"
    counts = {"": NUM_STEPS, "then ": NUM_STEPS + 1, "again ": NUM_STEPS + 1}
    for word, num_steps in counts.items():
        times = grids.uniform(num_steps)
        for sampler, schedule in itertools.product(chosen, each_schedule):
            samplers.plan(sampler, times, schedule=schedule)
        yield f"{word}{len(chosen)} x {len(each_schedule)} plans, {num_steps} steps"


def objective_table() -> Iterator[str]:
    """Computes weights and comparisons of the published recipes."""
    import numpy as np

    from diffusionflow import objectives

    recipes = [recipe() for recipe in objectives.RECIPES]
    logsnr = np.linspace(*LOGSNR_RANGE, 51)
    yield "imports, recipes"
    for recipe in recipes:
        objectives.total_weight(recipe, logsnr)
    yield f"total_weight of {len(recipes)}"
    pairs = list(itertools.combinations(recipes, 2))
    for a, b in pairs:
        objectives.same_objective(a, b, LOGSNR_RANGE)
    yield f"same_objective of {len(pairs)} pairs"


def all_grids() -> Iterator[str]:
    """Computes every function of `grids`."""
    from diffusionflow import grids
    from experiments.config import registry

    each_schedule = [registry.SCHEDULES[name]() for name in SCHEDULES]
    yield "imports, schedules"
    for word, num_steps in {"": NUM_STEPS, "then ": NUM_STEPS + 1}.items():
        grids.uniform(num_steps)
        grids.quadratic(num_steps)
        grids.cosine(num_steps)
        grids.shifted(num_steps, k=3.0)
        for spacing in grids.SPACINGS:
            grids.discrete(num_steps, spacing)
        yield f"{word}those of no schedule, {num_steps} steps"
        for schedule in each_schedule:
            grids.logsnr_uniform(num_steps, schedule=schedule)
            grids.karras(num_steps, schedule=schedule)
        yield f"{word}2 x {len(each_schedule)} of a schedule, {num_steps} steps"


def config_check() -> Iterator[str]:
    """Checks a config."""
    from configs import digits
    from experiments.config import experiment

    config = digits.get_config()
    yield "imports, config"
    experiment.from_config(config)
    yield "check of configs/digits.py"


PARTS = {
    "plans": plans,
    "objectives": objective_table,
    "grids": all_grids,
    "config": config_check,
}


def run_part(name: str) -> None:
    """Runs a part in a process of its own and sends its rows."""
    jax.config.update("jax_compilation_cache_dir", None)
    counts = Counts()
    rows = [dict(part=name, what=what, **counts.take()) for what in PARTS[name]()]
    protocol.send(dict(device=jax.devices()[0].device_kind, rows=rows))


def pytest_configure(config: Any) -> None:
    """Counts from here on, as a plugin of pytest."""
    if REPORTS in os.environ:
        config.programs = Counts()


def pytest_sessionfinish(session: Any) -> None:
    """Writes the counts of this process, as a plugin of pytest."""
    if REPORTS in os.environ:
        path = pathlib.Path(os.environ[REPORTS]) / f"{os.getpid()}.json"
        path.write_text(json.dumps(session.config.programs.take()))


def run_tests(arguments: str) -> tuple[dict[str, Any], int]:
    """Runs pytest with these arguments; returns its row and exit code."""
    command = [sys.executable, "-m", "pytest", "-p", "benchmarks.programs"]
    command += shlex.split(arguments)
    with tempfile.TemporaryDirectory() as directory:
        reports, cache = (pathlib.Path(directory) / name for name in ("counts", "xla"))
        reports.mkdir()
        places = {REPORTS: str(reports), "JAX_COMPILATION_CACHE_DIR": str(cache)}
        start = time.perf_counter()
        code = subprocess.run(
            command, cwd=ROOT, env=os.environ | places, stdout=sys.stderr
        ).returncode
        wall = time.perf_counter() - start
        reported = [json.loads(path.read_text()) for path in reports.iterdir()]
    total = {key: sum(counts[key] for counts in reported) for key in TITLES}
    what = f"pytest {arguments}"
    return dict(part="tests", what=what, **total) | dict(wall_seconds=wall), code


def parse() -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--parts", nargs="*", default=list(PARTS), choices=list(PARTS))
    add("--tests", help="arguments of pytest, one string")
    add("--json", type=pathlib.Path, help="also write everything measured here")
    add("--run", choices=list(PARTS), help=argparse.SUPPRESS)
    return parser.parse_args()


def show(results: dict[str, Any]) -> None:
    """Prints the table."""
    print(f"jax {results['jax']}, {results['device']}\n")
    print(f"| programs | {' | '.join(TITLES.values())} |")
    print("|---" * (len(TITLES) + 1) + "|")
    for row in results["rows"]:
        cells = [f"{row['part']}: {row['what']}"]
        for key in TITLES:
            cells.append(f"{row[key]:.2f}" if "seconds" in key else f"{row[key]:,}")
        print(f"| {' | '.join(cells)} |")


def main() -> None:
    args = parse()
    if args.run:
        run_part(args.run)
        return
    found, code = dict(jax=jax.__version__, device="as pytest has it", rows=[]), 0
    for name in args.parts:
        command = [sys.executable, "-m", "benchmarks.programs", f"--run={name}"]
        client = protocol.Client(command, str(ROOT))
        client.close()
        found["rows"] += client.facts["rows"]
        found["device"] = client.facts["device"]
    if args.tests is not None:
        row, code = run_tests(args.tests)
        found["rows"].append(row)
    show(found)
    if args.json:
        args.json.write_text(json.dumps(found, indent=1))
    sys.exit(code)


if __name__ == "__main__":
    main()
