"""Measures memory and compile time of the training step of large networks.

    python -m benchmarks.budget --compile

Nothing is executed. Printed for each network, type of the products and choice of what
is stored: parameters; equations of the step's jaxpr, inner ones included; MiB of the
state; MiB that the network stores between its forward and its backward pass, counted
from the jaxpr, so the same for every device; and with `--compile` the MiB of
temporaries that XLA plans on this device, and the seconds to lower and to compile. On a
CPU, XLA removes the barriers that keep stored and computed values apart, so there the
temporaries do not fall with what is stored.
"""

import argparse
import functools
import itertools
import time
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import jaxprs_in_params

from benchmarks import ours
from benchmarks.cases import CASES
from diffusionflow.networks.layers import REMAT
from experiments.data import Examples
from experiments.runtime import rng, sharding
from experiments.training import step

MIB = 2**20
NETWORKS = ("cifar10", "imagenet64", "dit_b", "dit_xl", "dit_3b")


def parse_arguments() -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--networks", nargs="+", default=NETWORKS[:3], choices=NETWORKS)
    add("--dtypes", nargs="+", default=["float32", "bfloat16"])
    add("--remat", nargs="+", default=["none", "nothing_saveable"])
    add("--batch_size", type=int, default=16)
    add("--compile", action="store_true", help="compile, and ask XLA for the memory")
    arguments = parser.parse_args()
    known = {"none", *filter(None, REMAT)}
    if not known.issuperset(arguments.remat):
        parser.error(f"--remat: known: {', '.join(sorted(known))}")
    return arguments


def large(name: str, dtype: str, remat: str, batch_size: int) -> step.StepConfig:
    """Makes the recipe of a case with another batch size and remat policy."""
    case = CASES[name] | {"batch_size": batch_size}
    case["network"] = case["network"] | {"remat": remat}
    return ours.make_recipe(case, dtype)


def shapes(recipe: step.StepConfig) -> tuple[Any, Examples, jax.Array]:
    """Makes the arguments of the training step without their values."""
    key = rng.stream(0, rng.TRAIN)
    state = jax.eval_shape(functools.partial(step.init, recipe=recipe), key)
    count = recipe.batch_size
    batch = Examples(
        jax.ShapeDtypeStruct((count, *recipe.model.event_shape), jnp.uint8),
        jax.ShapeDtypeStruct((count,), jnp.int32),
    )
    return state, batch, key


def stored_bytes(recipe: step.StepConfig) -> int:
    """Counts what the network keeps for its backward pass, parameters too."""
    state, batch, key = shapes(recipe)
    z = jax.ShapeDtypeStruct(batch.values.shape, jnp.float32)
    time = jax.ShapeDtypeStruct(batch.labels.shape, jnp.float32)

    def backward(params: Any, z: Any, time: Any, label: Any, key: Any) -> Any:
        def forward(params: Any) -> jax.Array:
            rngs = {"dropout": key}
            variables = {"params": params}
            return recipe.model.net.apply(
                variables, z, time, label, train=True, rngs=rngs
            )

        return jax.vjp(forward, params)[1]  # a pytree of what it needs

    kept = jax.eval_shape(backward, state.params, z, time, batch.labels, key)
    return num_bytes(kept)


def num_bytes(tree: Any) -> int:
    """Counts bytes of all leaves; a key counts as its two words."""
    return sum(
        leaf.size * (getattr(leaf.dtype, "itemsize", 8))
        for leaf in jax.tree.leaves(tree)
    )


def num_equations(jaxpr: Any) -> int:
    """Counts equations of a jaxpr and of those inside it."""
    return sum(
        1 + sum(num_equations(part) for part in jaxprs_in_params(equation.params))
        for equation in jaxpr.eqns
    )


def measure(recipe: step.StepConfig, compile: bool) -> dict[str, Any]:
    """Measures the numbers of one row, by column."""
    state, batch, key = shapes(recipe)
    train = functools.partial(step.train_step, recipe=recipe)
    start = time.perf_counter()
    traced = jax.jit(train, donate_argnums=0).trace(state, batch, key)
    facts = {
        "parameters": f"{sum(x.size for x in jax.tree.leaves(state.params)):,}",
        "equations": f"{num_equations(traced.jaxpr):,}",
        "state MiB": f"{num_bytes(state) / MIB:,.0f}",
        "stored MiB": f"{stored_bytes(recipe) / MIB:,.0f}",
    }
    if not compile:
        return facts
    lowered = traced.lower()
    middle = time.perf_counter()
    compiled = lowered.compile(compiler_options=sharding.compiler_options())
    end, memory = time.perf_counter(), compiled.memory_analysis()
    return facts | {
        "temporaries MiB": f"{memory.temp_size_in_bytes / MIB:,.0f}",
        "trace s": f"{middle - start:.0f}",
        "compile s": f"{end - middle:.0f}",
    }


def main() -> None:
    arguments = parse_arguments()
    titles = None
    choices = itertools.product(arguments.networks, arguments.dtypes, arguments.remat)
    for name, dtype, remat in choices:
        policy = "" if remat == "none" else remat
        recipe = large(name, dtype, policy, arguments.batch_size)
        row = {"network": name, "products": dtype, "stored": remat}
        row |= measure(recipe, arguments.compile)
        if titles is None:
            titles = list(row)
            print(f"{jax.devices()[0].device_kind}, batch {arguments.batch_size}")
            print(f"| {' | '.join(titles)} |\n|{'---|' * len(titles)}")
        print(f"| {' | '.join(row.values())} |", flush=True)


if __name__ == "__main__":
    main()
