"""Measures how fast sampling is by the number of samples that a program makes at once.

    python -m benchmarks.sampler_widths
    python -m benchmarks.sampler_widths --case=small32 --count=64 --num_steps=2 \
        --widths 16 32 64

The compiled program of `experiments.sample`, with Heun's method and random weights,
makes the same samples in programs of each width in place of the one that
`compiled_sampler.cpu_width` chooses. The widths take turns; printed are medians, and
their ratios to the first.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any
from unittest import mock

import jax

from benchmarks import cases, ours
from experiments.config.model import Model
from experiments.runtime import allocator
from experiments.sampling import compiled_sampler, conditions


def parse() -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--case", choices=cases.CASES, default="digits")
    add("--count", type=int, default=256, help="samples")
    add("--num_steps", type=int, default=10)
    add("--widths", type=int, nargs="+", default=(16, 32, 64, 128, 256))
    add("--rounds", type=int, default=5, help="in which each width has its turn")
    return parser.parse_args()


def program(model: Model, width: int, args: argparse.Namespace) -> Callable[..., Any]:
    """Makes the compiled sampler of one width."""
    section = dict(name="heun(variable='u')", num_steps=args.num_steps, grid="uniform")
    with mock.patch.object(compiled_sampler, "cpu_width", return_value=width):
        return compiled_sampler.make_sample_fn(
            model, section, guidance=1.0, batch_size=width, most=args.count
        )


def main() -> None:
    """Prints a table."""
    args = parse()
    allocator.keep_freed_memory(steps=False)  # as the command does
    model = ours.make_recipe(cases.CASES[args.case], "float32").model
    params = jax.jit(model.init)(jax.random.key(0))
    given = conditions.Conditions(conditions.labels_in_turn(args.count, ours.CLASSES))
    programs = {width: program(model, width, args) for width in args.widths}
    seconds: dict[int, list[float]] = {width: [] for width in programs}
    for number in range(args.rounds + 1):
        for width, sample_fn in programs.items():
            begin = time.perf_counter()
            sample_fn(params, 0, given)
            if number:  # the first compiles
                seconds[width].append(time.perf_counter() - begin)
    chosen = compiled_sampler.cpu_width(model.event_shape)
    print(f"{args.case}, {args.count} samples; {chosen} at once by default\n")
    print("| at once | ms | of the first |\n|---|---|---|")
    middle = {width: statistics.median(each) for width, each in seconds.items()}
    for width, each in middle.items():
        print(f"| {width} | {1e3 * each:.0f} | {each / middle[args.widths[0]]:.2f} |")


if __name__ == "__main__":
    main()
