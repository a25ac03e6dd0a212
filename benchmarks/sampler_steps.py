"""Measures the time of every sampler's step over the time of its network calls.

    python -m benchmarks.sampler_steps

For each sampler that a config can name, `samplers.run` and a loop of as many calls of
the same network alternate in this process: the network of `configs/digits.py` with
weights drawn at random, on the samples that a compiled program of `experiments.sample`
makes at once. The table has the medians of the ratios of the pairs and their quartiles.
"""

import argparse
import functools
import json
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from benchmarks import cases, ours
from diffusionflow import grids, random, samplers
from experiments.config import parsing, registry
from experiments.runtime import allocator, sharding
from experiments.sampling import compiled_sampler

Program = Callable[[], Any]

OF_TWO_TIMES = ("flow_map",)  # jumps of another network
# with more than one order, or another number of calls a step
MORE = (
    "adams_bashforth(3)",
    "dpm_solver(3)",
    "unipc(3)",
    "sa_solver(3, 3)",
    "sde_dpm_solver(3)",
)


def parse() -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    names = [name for name in registry.SAMPLERS if name not in OF_TWO_TIMES]
    add("--samplers", nargs="+", default=[*names, *MORE], help="as in a config")
    add("--batch_size", type=int, default=compiled_sampler.cpu_width((8, 8, 1)))
    add("--num_steps", type=int, default=20)
    add("--pairs", type=int, default=11, help="of a run and its network calls")
    add("--json", type=pathlib.Path, help="also write every ratio here")
    return parser.parse_args()


class Digits:
    """The digits network with random weights, and the two programs that are timed."""

    def __init__(self, batch_size: int):
        self.model = ours.make_recipe(cases.CASES["digits"], "float32").model
        self.schedule = self.model.objective.schedule
        self.keys = random.example_keys(0, np.arange(batch_size))
        label = jnp.arange(batch_size) % self.model.num_classes
        shape = (batch_size, *self.model.event_shape)
        self.z = jax.random.normal(jax.random.key(0), shape)
        params = jax.jit(self.model.init)(jax.random.key(1))
        leaves, tree = jax.tree.flatten(params)
        keys = jax.random.split(jax.random.key(2), len(leaves))
        moved = lambda key, leaf: leaf + 0.02 * jax.random.normal(key, leaf.shape)
        self.params = jax.tree.unflatten(tree, map(moved, keys, leaves))  # no zeros
        denoise_fn = lambda params: self.model.denoise_fn(params, label, 1)

        @functools.partial(jax.jit, compiler_options=sharding.compiler_options())
        def run(params: Any, keys: Array, z: Array, rows: Any, sampler: Any) -> Any:
            return samplers.run(keys, denoise_fn(params), z, rows, sampler=sampler)

        @functools.partial(jax.jit, compiler_options=sharding.compiler_options())
        def network(params: Any, z: Array, calls: int) -> Array:
            def call(number: Array, z: Array) -> Array:
                t = (number + 1) / (calls + 1)
                return denoise_fn(params)(z, t).x

            return jax.lax.fori_loop(0, calls, call, z)

        self.run_fn, self.network_fn = run, network

    def programs(self, text: str, num_steps: int) -> tuple[Program, Program, int]:
        """Returns a run of a sampler, as many calls of its network, and how many."""
        sampler = parsing.parse("--samplers", text, registry.SAMPLERS)
        rows = samplers.plan(sampler, grids.uniform(num_steps), schedule=self.schedule)
        run = lambda: self.run_fn(self.params, self.keys, self.z, rows, sampler)
        calls = int(run().nfe)
        return run, lambda: self.network_fn(self.params, self.z, calls), calls


def ratios(programs: Sequence[Program], pairs: int) -> dict[str, list[float]]:
    """Measures the first program's time over the second's, by pairs.

    Returns:
      Ratios of elapsed time and of processor time; where other processes run, the
      second of them varies less.
    """
    clocks = {"elapsed": time.perf_counter, "processor": time.process_time}
    seconds: dict[str, list[float]] = {name: [] for name in clocks}
    for number in range(2 * (pairs + 1)):
        start = {name: clock() for name, clock in clocks.items()}
        jax.block_until_ready(programs[number % 2]())
        for name, clock in clocks.items():
            seconds[name].append(clock() - start[name])
    kept = {name: values[2:] for name, values in seconds.items()}  # the first compiles
    return {
        name: [run / calls for run, calls in zip(v[::2], v[1::2], strict=True)]
        for name, v in kept.items()
    }


def main() -> None:
    args = parse()
    allocator.keep_freed_memory(steps=False)  # as the command does
    digits, found = Digits(args.batch_size), {}
    print(f"digits network, {args.batch_size} samples, {args.num_steps} steps")
    print("| sampler | calls | elapsed | quartiles | processor time | quartiles |")
    print("|---|---|---|---|---|---|")
    for text in args.samplers:
        *programs, calls = digits.programs(text, args.num_steps)
        found[text] = ratios(programs, args.pairs)
        cells = []
        for values in found[text].values():
            low, middle, high = np.percentile(values, [25, 50, 75])
            cells += [f"{middle:.3f}", f"{low:.3f} to {high:.3f}"]
        print(f"| `{text}` | {calls} | {' | '.join(cells)} |", flush=True)
    if args.json:
        args.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
