"""Seconds of a coupling of one group, next to SciPy's assignment alone.

    python -m benchmarks.couplings

Normal data in 64 dimensions. Each repetition runs every method in turn, on numbers of
its own, so that what else the machine does falls on all of them; the least of the
repetitions is printed, compilation left out. `scipy` is `linear_sum_assignment` of a
matrix that is there already; `semidiscrete` assigns to a data set of 2,000 rows.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from scipy.optimize import linear_sum_assignment

from diffusionflow import couplings


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=(128, 256, 512, 1024))
    parser.add_argument("--features", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=7)
    return parser.parse_args()


def methods(n: int, features: int) -> dict[str, Callable[[Any, Any, Any], Any]]:
    """Name -> `(key, x, eps) -> anything`, of arrays on the host."""
    rows = np.random.RandomState(0).standard_normal((2000, features))
    data = rows.astype(np.float32)
    pair = jax.jit(lambda coupling, *arguments: coupling(*arguments))
    ours = {
        "independent": couplings.Independent(),
        "assignment": couplings.Assignment(group=n),
        "sinkhorn": couplings.Sinkhorn(group=n),
        "semidiscrete": couplings.Semidiscrete(data, np.zeros(2000, np.float32)),
    }
    found: dict[str, Callable[[Any, Any, Any], Any]] = {
        name: lambda *arguments, coupling=coupling: pair(coupling, *arguments)
        for name, coupling in ours.items()
    }
    found["scipy"] = lambda key, x, eps: linear_sum_assignment(-x @ eps.T)
    return found


def seconds(n: int, features: int, repeats: int) -> dict[str, float]:
    """The least of each method."""
    runs = methods(n, features)
    times: dict[str, list[float]] = {name: [] for name in runs}
    rng = np.random.RandomState(1)
    for number in range(repeats + 1):  # the first compiles
        for name, run in runs.items():
            x, eps = rng.standard_normal((2, n, features)).astype(np.float32)
            key = jax.random.key(number)
            begin = time.perf_counter()
            jax.block_until_ready(run(key, x, eps))
            times[name].append(time.perf_counter() - begin)
    return {name: min(each[1:]) for name, each in times.items()}


def main() -> None:
    """Prints a table."""
    arguments = parse()
    for number, n in enumerate(arguments.sizes):
        row = seconds(n, arguments.features, arguments.repeats)
        if not number:
            print("| n | " + " | ".join(row) + " |\n" + "|---" * (len(row) + 1) + "|")
        print(f"| {n} | " + " | ".join(f"{each:.4f}" for each in row.values()) + " |")


if __name__ == "__main__":
    main()
