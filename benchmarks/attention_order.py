"""Measures attention with the keys before the queries, as a CPU has it, in a network.

    python -m benchmarks.attention_order --case=small32

A call of the network and a training step are compiled with logits [batch, heads, keys,
queries] and with [batch, heads, queries, keys], and take turns; printed are medians,
and quartiles of the ratio of each pair.
"""

import argparse
import time
from collections.abc import Callable
from unittest import mock

import jax
import numpy as np

from benchmarks import cases, ours
from diffusionflow.networks import forms
from experiments.runtime import allocator, sharding

NEVER = 2**30  # tokens


def parse() -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--case", choices=cases.CASES, default="small32")
    add("--rounds", type=int, default=9, help="in which each order has its turn")
    add("--calls", type=int, default=3, help="in a turn")
    return parser.parse_args()


def programs(case: str, tokens: int) -> dict[str, Callable[[], None]]:
    """Compiles step and call with the keys first from so many tokens on."""
    jax.clear_caches()
    options = sharding.compiler_options()
    with mock.patch.object(forms, "KEYS_FIRST", tokens):
        compiled = ours.Programs(cases.CASES[case], "float32", options)
        net = ours.make_recipe(cases.CASES[case], "float32").model.net
        call = jax.jit(lambda params, *given: net.apply({"params": params}, *given))
        lowered = call.lower(compiled.params, *compiled.inputs)
        call = lowered.compile(compiler_options=options)

    def run_call() -> None:
        jax.block_until_ready(call(compiled.params, *compiled.inputs))

    return dict(call=run_call, step=compiled.run_train)


def seconds(run_fn: Callable[[], None], calls: int) -> float:
    """Times some calls."""
    start = time.perf_counter()
    for _ in range(calls):
        run_fn()
    return (time.perf_counter() - start) / calls


def main() -> None:
    """Prints a line for the call and one for the step."""
    args = parse()
    allocator.keep_freed_memory()
    queries, keys = (programs(args.case, n) for n in (NEVER, forms.KEYS_FIRST))
    for name in ("call", "step"):
        pairs = []
        for number in range(args.rounds + 1):
            turn = (queries, keys) if number % 2 else (keys, queries)
            timed = [seconds(each[name], args.calls) for each in turn]
            pairs.append(timed if number % 2 else timed[::-1])
        times = np.array(pairs[1:])
        first, last = 1e3 * np.median(times, axis=0)
        low, middle, high = np.quantile(times[:, 1] / times[:, 0], [0.25, 0.5, 0.75])
        print(
            f"{args.case}, {name}: {first:.1f} ms with the queries first, {last:.1f} "
            f"with the keys, ratio {middle:.3f} ({low:.3f} to {high:.3f})",
            flush=True,
        )


if __name__ == "__main__":
    main()
