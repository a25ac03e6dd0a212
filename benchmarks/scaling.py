"""Shows what a training step costs each of many devices that share it, on paper.

    python -m benchmarks.scaling --networks cifar10 dit_xl dit_3b --devices 8 64 512

Nothing is executed or compiled: shapes come from `jax.eval_shape`, and collectives from
the two rules of `experiments/training/step.py`, which `python -m benchmarks.lowered
--mesh` shows in a program that XLA has partitioned: every sharded parameter is gathered
once, and every gradient is summed over all devices before it is cut.

Each device has `--batch_size` examples; parameters, optimizer and averages are cut over
`--fsdp` devices, or all where they are fewer. Printed for each network and number of
devices, in GiB a device:

- share: of parameters + optimizer + averages;
- whole: parameters and gradients in one piece, where all of them are there at once,
  which XLA avoids in part;
- stored: what the network keeps for its backward pass, by `remat`, without parameters.

Then bytes of the collectives, and milliseconds: of the products at the peak of
`--device`, three times those of the forward pass, and of the collectives in a ring at
`--link` bytes a second inside a node of `--node` devices, at `--network` beyond it.
"""

import argparse
import math
from typing import Any, NamedTuple

import jax
from jax.extend.core import jaxprs_in_params
from jax.sharding import AbstractMesh

from benchmarks import budget
from benchmarks.devices import DEVICES
from experiments.runtime.sharding import DATA, FSDP, FSDPSharding
from experiments.training import step

GIB = 2**30
NETWORKS = ("cifar10", "dit_xl", "dit_3b")


class Traffic(NamedTuple):
    """Bytes of the collectives of a step, results of all devices' size.

    Fields:
      gathered: of parameters that are cut.
      summed: of gradients.
    """

    gathered: int
    summed: int


def ring_seconds(num_bytes: int, count: int, bandwidth: float) -> float:
    """Seconds to gather in a ring of `count` devices, each of `bandwidth` bytes/s."""
    return (count - 1) / count * num_bytes / bandwidth


def parse_arguments() -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--networks", nargs="+", default=NETWORKS, choices=NETWORKS)
    add("--devices", nargs="+", type=int, default=[8, 64, 512])
    add("--remat", nargs="+", default=["none", "nothing_saveable"])
    add("--batch_size", type=int, default=32, help="examples of a device")
    add("--device", default="h200", choices=DEVICES)
    add("--fsdp", type=int, default=64, help="devices that share parameters, at most")
    add("--node", type=int, default=8, help="devices of a node")
    add("--link", type=float, help="bytes a second; default: the device's")
    add("--network", type=float, default=50e9, help="bytes a second, of a device")
    return parser.parse_args()


def placement(count: int) -> FSDPSharding:
    """The sharding over `count` devices that need not be there."""
    return FSDPSharding(AbstractMesh((1, count), (DATA, FSDP)), 2**14)


def share_bytes(tree: Any, cut: FSDPSharding) -> int:
    """Counts bytes of a device's share of a tree."""
    return sum(
        math.prod(cut.sharding(leaf).shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
    )


def traffic(params: Any, cut: FSDPSharding) -> Traffic:
    """Counts what the collectives of a step move."""
    leaves = jax.tree.leaves(params)
    gathered = sum(
        leaf.size * leaf.dtype.itemsize
        for leaf in leaves
        if not cut.sharding(leaf).is_fully_replicated
    )
    return Traffic(gathered, budget.num_bytes(leaves))


def forward_flops(recipe: step.StepConfig) -> float:
    """Counts floating-point operations of the products of one call of the network."""
    state, batch, _ = budget.shapes(recipe)
    z = jax.ShapeDtypeStruct(batch.values.shape, jax.numpy.float32)
    time = jax.ShapeDtypeStruct(batch.labels.shape, jax.numpy.float32)
    call = lambda params, *inputs: recipe.model.net.apply({"params": params}, *inputs)
    return _flops(jax.make_jaxpr(call)(state.params, z, time, batch.labels).jaxpr)


def _flops(jaxpr: Any) -> float:
    total = 0.0
    for equation in jaxpr.eqns:
        inner = sum(_flops(part) for part in jaxprs_in_params(equation.params))
        total += inner * equation.params.get("length", 1)  # of a scan
        shapes = [each.aval.shape for each in (*equation.invars, *equation.outvars)]
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            each = math.prod(shapes[0][axis] for axis in contracted)
            total += 2.0 * math.prod(shapes[-1]) * each
        elif equation.primitive.name == "conv_general_dilated":
            out = equation.params["dimension_numbers"].rhs_spec[0]
            each = math.prod(shapes[1]) / shapes[1][out]
            total += 2.0 * math.prod(shapes[-1]) * each
    return total


class Costs(NamedTuple):
    """What a network costs, whatever the number of devices.

    Fields:
      state: shapes of its training state.
      stored: bytes for the backward pass, by policy.
      seconds: of the products of a step, at the device's peak.
    """

    state: Any
    stored: dict[str, int]
    seconds: float


def measure(name: str, arguments: argparse.Namespace) -> Costs:
    """Traces a network with each policy."""
    recipes = {
        remat: budget.large(
            name, "bfloat16", "" if remat == "none" else remat, arguments.batch_size
        )
        for remat in arguments.remat
    }
    recipe = next(iter(recipes.values()))
    state = budget.shapes(recipe)[0]
    whole = budget.num_bytes(state.params)
    return Costs(
        state,
        {remat: budget.stored_bytes(each) - whole for remat, each in recipes.items()},
        3 * forward_flops(recipe) / DEVICES[arguments.device].half,
    )


def row(costs: Costs, count: int, arguments: argparse.Namespace) -> dict[str, str]:
    """Computes a row of a network, by column."""
    sharing = min(count, arguments.fsdp)
    state, cut = costs.state, placement(sharing)
    moved = traffic(state.params, cut)
    shares = [share_bytes(part, cut) for part in (state.params, state.opt_state)]
    shares.append(share_bytes((state.ema, state.profiles), cut))
    link = arguments.link or DEVICES[arguments.device].link
    bandwidth = lambda n: link if n <= arguments.node else arguments.network
    gather = ring_seconds(moved.gathered, sharing, bandwidth(sharing))
    collect = gather + 2 * ring_seconds(moved.summed, count, bandwidth(count))
    return {
        "parameters": f"{sum(leaf.size for leaf in jax.tree.leaves(state.params)):,}",
        "devices": f"{count}",
        "share": " + ".join(f"{each / GIB:.2f}" for each in shares),
        "whole": f"{2 * budget.num_bytes(state.params) / GIB:.2f}",
        **{f"stored, {name}": f"{n / GIB:.2f}" for name, n in costs.stored.items()},
        "gathered + summed, GB": (
            f"{moved.gathered / 1e9:.2f} + {moved.summed / 1e9:.2f}"
        ),
        "products, ms": f"{1e3 * costs.seconds:.1f}",
        "collectives, ms": f"{1e3 * collect:.1f}",
    }


def main() -> None:
    arguments = parse_arguments()
    titles = None
    print(f"{arguments.device}, {arguments.batch_size} examples a device, GiB")
    for name in arguments.networks:
        costs = measure(name, arguments)
        for count in arguments.devices:
            cells = {"network": name} | row(costs, count, arguments)
            if titles is None:
                titles = list(cells)
                print(f"| {' | '.join(titles)} |\n|{'---|' * len(titles)}")
            print(f"| {' | '.join(cells.values())} |", flush=True)


if __name__ == "__main__":
    main()
