"""Measures how time and memory grow with the work: exponents over a factor of 16.

    python -m benchmarks.exponents
    python -m benchmarks.exponents --parts step sample --sizes=3 --rounds=3

For a training step, for sampling and for the parts of an evaluation, one quantity grows
and all else stays. The programs of all its sizes run in turns in this process. Printed
are the median milliseconds of each size, and slopes of logarithms with their standard
errors, by least squares:

- flops: of counted floating-point operations over the quantity;
- time, CPU: of time by the clock, and of CPU seconds, over the work. That is the
  quantity itself, or the operations where they grow faster: in channels, in pixels that
  attend to each other, in features of the Frechet distance, in pairs of samples;
- last: of time between the two largest sizes, where a constant share counts least;
- memory: of the temporaries of the largest compiled program and the most memory that
  Python and NumPy allocated in a run, over the work.

A star marks a slope of time, CPU or memory above 1.05. On a shared machine go by the
CPU seconds.
"""

import argparse
import collections
import gc
import json
import pathlib
import statistics
import time
import tracemalloc
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from benchmarks.sized_programs import NETWORKS, PROGRAMS, Program, Size
from experiments.runtime import allocator

MOST = 1.05  # an exponent
LEAST = 0.05  # seconds that a program runs before the next one has its turn
MIB = 2**20

BATCHES = dict(count=(8, 16, 32, 64, 128))
SIDES = dict(side=(8, 12, 16, 24, 32))
CHANNELS = dict(channels=(16, 24, 32, 48, 64))
EXAMPLES = dict(count=(32, 64, 128, 256, 512))
STEPS = dict(steps=(2, 4, 8, 16, 32))
ROWS = (500, 1_000, 2_000, 4_000, 8_000)
PAIRED = (500, 1_000, 2_000, 3_000, 4_000)
# by part: what grows, the field of `Size` with its values, and the other fields
GROWTH: dict[str, list[tuple[str, dict[str, tuple[int, ...]], dict[str, int]]]] = {
    "step": [
        ("batch", BATCHES, {}),
        ("pixels", SIDES, {}),
        ("channels", CHANNELS, {}),
    ],
    "sample": [
        ("samples", EXAMPLES, {}),
        ("pixels", SIDES, {}),
        ("channels", CHANNELS, {}),
        ("steps", STEPS, {}),
    ],
}
GROWTH |= {
    part: [("examples", EXAMPLES, {}), ("pixels", SIDES, dict(count=32))]
    for part in ("eps-MSE", "bound", "ODE")
}
GROWTH |= {
    part: [
        ("samples", dict(count=counts), {}),
        ("rows of data", dict(data=ROWS), dict(count=2_000)),
        ("features", dict(features=features), dict(count=2_000)),
    ]
    for part, counts, features in (
        ("Frechet", ROWS, (128, 192, 256, 384, 512)),
        ("MMD", PAIRED, (64, 128, 256, 512, 1_024)),
        ("energy", PAIRED, (64, 128, 256, 512, 1_024)),
    )
}


class Fit(NamedTuple):
    """The slope of a line through logarithms.

    Fields:
      slope: by least squares.
      error: its standard error; NaN of two points.
      last: slope of the last two points.
    """

    slope: float
    error: float
    last: float


def fit(x: Sequence[float], y: Sequence[float]) -> Fit:
    """Fits `y = c x^slope`.

    Args:
      x: positive, rising.
      y: positive, or all 0, which do not grow.
    """
    if not any(y):
        return Fit(0.0, 0.0, 0.0)
    u, v = np.log(x), np.log(y)
    centred = u - u.mean()
    square = centred @ centred
    slope = centred @ v / square
    left = v - v.mean() - slope * centred
    free = len(u) - 2
    error = np.sqrt(left @ left / free / square) if free else np.nan
    last = (v[-1] - v[-2]) / (u[-1] - u[-2])
    return Fit(float(slope), float(error), float(last))


def parse() -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--parts", nargs="+", default=list(GROWTH), choices=list(GROWTH))
    add("--quantities", nargs="+", help="such as batch pixels; by default all")
    add("--network", default="unet", choices=list(NETWORKS))
    add("--sizes", type=int, default=5, choices=[2, 3, 5], help="of each quantity")
    add("--rounds", type=int, default=5, help="turns of each size")
    add("--json", type=pathlib.Path, help="also write every number here")
    return parser.parse_args()


def temporaries() -> collections.Counter[int]:
    """Counts the compiled programs of this process by bytes of their temporaries."""
    live = jax.devices()[0].client.live_executables()
    sizes = (each.get_compiled_memory_stats().temp_size_in_bytes for each in live)
    return collections.Counter(sizes)


def traced_peak(program: Program) -> int:
    """The most bytes that arrays of NumPy hold in a run."""
    tracemalloc.start()
    program.run_fn()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def turn(program: Program) -> list[tuple[float, float]]:
    """Runs a program once, then for a while: seconds and CPU seconds of each run."""
    program.run_fn()
    found: list[tuple[float, float]] = []
    begin = time.perf_counter()
    while not found or time.perf_counter() - begin < LEAST:
        start, cpu = time.perf_counter(), time.process_time()
        program.run_fn()
        found.append((time.perf_counter() - start, time.process_time() - cpu))
    return found


def measure(part: str, sizes: Iterable[Size], rounds: int) -> list[dict[str, Any]]:
    """Measures programs in turns: operations, seconds and bytes of each."""
    programs, rows = [], []
    before, temporary = temporaries(), 0
    for size in sizes:
        programs.append(PROGRAMS[part](size))
        programs[-1].run_fn()  # compiles
        after = temporaries()
        temporary = max(after - before, default=temporary)  # or it was compiled before
        before = after
        rows.append(dict(flops=programs[-1].flops, temporaries=temporary))
        rows[-1]["arrays"] = traced_peak(programs[-1])
    seconds: list[list[tuple[float, float]]] = [[] for _ in programs]
    for _ in range(rounds):
        for program, found in zip(programs, seconds, strict=True):
            found += turn(program)
    for row, found in zip(rows, seconds, strict=True):
        both = zip(*found, strict=True)
        row["seconds"], row["cpu"] = map(statistics.median, both)
    return rows


def cell(found: Fit) -> str:
    """Formats a slope with its error, and a star where it is too large."""
    return f"{found.slope:.2f} ({found.error:.2f}){' *' * (found.slope > MOST)}"


def report(part: str, name: str, values: Sequence[int], rows: Any) -> None:
    """Prints a row of the table."""
    column = lambda key: [row[key] for row in rows]
    counted, seconds = fit(values, column("flops")), column("seconds")
    work = column("flops") if counted.slope > 1 else values
    memory = [row["temporaries"] + row["arrays"] for row in rows]
    time_fit = fit(work, seconds)
    cells = [
        part,
        name,
        f"{values[0]:,} to {values[-1]:,}",
        f"{counted.slope:.2f}",
        ", ".join(f"{1e3 * value:.3g}" for value in seconds),
        cell(time_fit),
        f"{time_fit.last:.2f}",
        cell(fit(work, column("cpu"))),
        ", ".join(f"{value / MIB:.3g}" for value in memory),
        cell(fit(work, memory)),
    ]
    print(f"| {' | '.join(cells)} |", flush=True)


def main() -> None:
    args = parse()
    allocator.keep_freed_memory()  # as the commands do
    titles = "part, what grows, sizes, flops, ms, time, last, CPU, MiB, memory"
    found = []
    print(f"network {args.network}; {jax.devices()[0].device_kind}\n")
    print(f"| {titles.replace(', ', ' | ')} |\n{'|---' * 10}|", flush=True)
    for part in args.parts:
        for what, growing, others in GROWTH[part]:
            if args.quantities and what not in args.quantities:
                continue
            ((name, every),) = growing.items()
            chosen = np.linspace(0, len(every) - 1, args.sizes).astype(int)
            fixed = Size(args.network)._replace(**others)
            sizes = [fixed._replace(**{name: every[place]}) for place in chosen]
            rows = measure(part, sizes, args.rounds)
            name = {"side": "pixels"}.get(name, name)
            values = [getattr(size, name) for size in sizes]
            report(part, what, values, rows)
            found.append(dict(part=part, what=what, values=values, rows=rows))
            gc.collect()
    if args.json:
        args.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
