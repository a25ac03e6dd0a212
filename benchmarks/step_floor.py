"""Measures what stands between a training step and its convolutions and products.

    python -m benchmarks.step_floor --cases digits small32 dit_tiny

The step of a case is compiled as the trainer does. All convolutions and products are
read from the compiled program; of each the different ones are compiled alone, with the
same options, and timed in this process in turns with the whole step. The time of an
empty program is subtracted from theirs. Printed for each case:

- the step, the sum of its convolutions and of its products alone, each as often as the
  step has it, the rest, and floating-point operations a second; and the same work at
  the rate of a product of two matrices of 1,024 x 1,024;
- the profile of a step: time of the threads by kind of operation, from the trace of
  JAX's profiler, see `thread_time.py`. It has the time that they wait, too;
- the convolutions and products that take longest, alone and in the step (its threads'
  time, divided by their number).

Alone they run one after another, on operands that the caches hold; in the step some run
side by side, and others' results are in the way.
"""

import argparse
import json
import os
import pathlib
import tempfile
import time
from collections import Counter
from typing import Any

import jax
import numpy as np

from benchmarks import hlo, isolated_products, ours, thread_time
from benchmarks.cases import CASES
from benchmarks.hlo import WAYS, Occurrence, Product
from benchmarks.isolated_products import SQUARE, Run, Timed
from experiments.runtime import allocator, sharding

PLURAL = dict(convolution="convolutions", dot="products")  # by opcode
PROFILED = 3  # steps
# fusions of these alone move numbers and compute none
MOVES = {"copy", "transpose", "reverse", "slice", "concatenate", "pad", "broadcast"}
MOVES |= {"bitcast", "reshape", "parameter", "constant", "tuple", "get-tuple-element"}


def parse() -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    default = ["digits", "small32", "dit_tiny"]
    add("--cases", nargs="+", default=default, choices=CASES)
    add("--batch_size", type=int, help="instead of that of the case")
    add("--dtype", default="float32", choices=["float32", "bfloat16"])
    add("--rounds", type=int, default=9, help="of the step and all that stand alone")
    add("--rows", type=int, default=20, help="of the longest convolutions and products")
    add("--json", type=pathlib.Path, help="also write everything measured here")
    return parser.parse_args()


def profile(step: Run) -> tuple[Counter[str], float]:
    """Measures seconds of all threads by instruction, and elapsed ones, of a step."""
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder, profiler_options=options):
            start = time.perf_counter()
            for _ in range(PROFILED):
                step()
            elapsed = time.perf_counter() - start
        found = thread_time.thread_seconds(pathlib.Path(folder))
    each = {name: seconds / PROFILED for name, seconds in found.items()}
    return Counter(each), elapsed / PROFILED


def kinds(program: hlo.Program, found: list[Occurrence]) -> dict[str, str]:
    """Returns the kind of each instruction that a profile may have, by its name."""
    named = {
        each.name: _kind(each, program)
        for inside in program.computations.values()
        for each in inside.values()
    }
    named |= {each.place: PLURAL[each.product.opcode] for each in found}
    return named | {thread_time.BETWEEN: "between instructions"}


def _kind(each: hlo.Instruction, program: hlo.Program) -> str:
    opcodes = {each.opcode}
    if each.opcode == "fusion":
        (called,) = each.called
        opcodes = {part.opcode for part in program.computations[called].values()}
    if opcodes <= MOVES:
        return "copies and transposes"
    return "fusions" if each.opcode == "fusion" else "others"


def by_kind(
    profiled: Counter[str], elapsed: float, named: dict[str, str]
) -> dict[str, float]:
    """Returns seconds of the threads of a step by kind, waiting included."""
    found = Counter()
    for name, seconds in profiled.items():
        found[named.get(name, "others")] += seconds
    rows = dict(found.most_common())
    return rows | {"waiting": num_threads() * elapsed - sum(found.values())}


def report_sums(found: list[Occurrence], timed: Timed) -> None:
    """Prints the step, what is in it alone, and the rest."""
    print("\n| | number | different | ms | of the step | GFLOP | GFLOP/s |")
    print("|---|---|---|---|---|---|---|")
    row = lambda *cells: print(f"| {' | '.join(cells)} |")
    ms = lambda seconds: f"{1e3 * np.median(seconds):.2f}"
    share = lambda seconds: f"{np.median(seconds / timed.step):.3f}"
    row("step", "", "", ms(timed.step), "1", "", "")
    rest, all_flops = timed.step, 0.0
    for opcode, plural in PLURAL.items():
        chosen = [each for each in found if each.product.opcode == opcode]
        ways = (way for way in WAYS if any(each.way == way for each in chosen))
        for way in (None, *ways):
            part = [each for each in chosen if way in (None, each.way)]
            seconds = sum(each.count * timed.alone[each.product] for each in part)
            flops = sum(each.count * timed.flops[each.product] for each in part)
            row(
                plural if way is None else f"of them {way}",
                f"{sum(each.count for each in part)}",
                f"{len({each.product for each in part})}",
                *(ms(seconds), share(seconds), f"{flops / 1e9:.2f}"),
                f"{flops / np.median(seconds) / 1e9:.0f}" if part else "",
            )
            if way is None:
                rest, all_flops = rest - seconds, all_flops + flops
    row("rest", "", "", ms(rest), share(rest), "", "")
    rate = 2 * SQUARE**3 / timed.square
    same = all_flops / rate
    cells = ms(same), share(same), f"{all_flops / 1e9:.2f}"
    row(
        f"all as in {SQUARE} x {SQUARE}", "", "", *cells, f"{np.median(rate) / 1e9:.0f}"
    )


def report_profile(seconds: dict[str, float]) -> None:
    """Prints the threads' time by kind."""
    total = sum(seconds.values())
    print("\n| profile of a step | ms of all threads | share |\n|---|---|---|")
    for name, value in seconds.items():
        print(f"| {name} | {1e3 * value:.2f} | {value / total:.3f} |")


def report_longest(
    found: list[Occurrence], timed: Timed, profiled: Counter[str], rows: int
) -> None:
    """Prints the convolutions and products that take longest."""
    number, inside, total = Counter(), Counter(), Counter()
    for each in found:
        key = each.product, each.way
        number[key] += each.count
        inside[key] += 1e3 * profiled[each.place] / num_threads()
        total[key] += 1e3 * each.count * np.median(timed.alone[each.product])
    print("\n| | number | alone, ms | all, ms | in the step, ms | GFLOP/s |")
    print("|---|---|---|---|---|---|")
    order = [key for key, _ in total.most_common()]
    for key in order[:rows]:
        product, way = key
        one = np.median(timed.alone[product])
        cells = (
            f"{number[key]} | {1e3 * one:.3f} | {total[key]:.2f} | {inside[key]:.2f}"
        )
        rate = timed.flops[product] / one / 1e9
        print(f"| {described(product, way)} | {cells} | {rate:.0f} |")
    if others := order[rows:]:
        count, all_, within = (
            sum(part[key] for key in others) for part in (number, total, inside)
        )
        print(f"| {len(others)} others | {count} | | {all_:.2f} | {within:.2f} | |")


def num_threads() -> int:
    """Returns the number of threads that XLA has."""
    return len(os.sched_getaffinity(0))


def described(product: Product, way: str) -> str:
    """Describes a product by its way, shapes and window."""
    shapes = " x ".join(each.partition("[")[2].rstrip("]") for each in product.operands)
    settings = dict(product.settings)
    if product.opcode == "convolution":
        return f"{way} {shapes}, {settings['window'].strip('{}')}"
    axes = [settings.get(f"{side}_contracting_dims", "{}") for side in ("lhs", "rhs")]
    return f"product {shapes}, axes {' and '.join(axes)}"


def run_case(args: argparse.Namespace, name: str) -> dict[str, Any]:
    """Measures and prints a case; returns it as JSON values."""
    size = {} if args.batch_size is None else dict(batch_size=args.batch_size)
    options = sharding.compiler_options()  # of the trainer
    programs = ours.Programs(CASES[name] | size, args.dtype, options)
    program = hlo.read(programs.train.as_text())
    found = hlo.occurrences(program)
    wanted = list(dict.fromkeys(each.product for each in found))
    print(f"\n{name}, {args.rounds} rounds, {num_threads()} threads")
    timed = isolated_products.measure(programs.run_train, wanted, options, args.rounds)
    report_sums(found, timed)
    profiled, elapsed = profile(programs.run_train)
    shares = by_kind(profiled, elapsed, kinds(program, found))
    report_profile(shares)
    report_longest(found, timed, profiled, args.rows)
    occurrences = [
        dict(
            product=described(each.product, each.way),
            count=each.count,
            place=each.place,
            flops=timed.flops[each.product],
            seconds=timed.alone[each.product].tolist(),
            thread_seconds_in_the_step=profiled[each.place],
        )
        for each in found
    ]
    rounds = dict(step=timed.step.tolist(), square=timed.square.tolist())
    return dict(name=name, **rounds, profile=shares, products=occurrences)


def main() -> None:
    args = parse()
    allocator.keep_freed_memory()  # as the commands do
    results = [run_case(args, name) for name in args.cases]
    if args.json:
        args.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
