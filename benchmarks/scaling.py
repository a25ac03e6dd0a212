"""Shows what a training step costs each of many devices that share it, on paper.

    python -m benchmarks.scaling --networks cifar10 dit_xl dit_3b --devices 8 64 512

Nothing is executed or compiled: shapes come from `jax.eval_shape`, and collectives from
the two rules of `experiments/training/step.py`, which `python -m benchmarks.lowered
--mesh` shows in a program that XLA has partitioned: every sharded parameter is gathered
once, and every gradient is summed over all devices before it is cut.

Each device has `--batch_size` examples, and parameters, optimizer and averages are cut
over all devices (fully sharded). Printed for each network and number of devices, in GiB
a device: its share of parameters, optimizer and averages; parameters and gradients as
they are while all of them are there, which XLA may avoid in part; and what the network
stores for its backward pass. Then the bytes that it sends, and milliseconds: of the
products at `--device`'s peak, forward three times, and of the collectives in rings at
`--link` bytes a second inside a node of `--node` devices, `--network` between nodes.
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

    def seconds(self, count: int, bandwidth: float) -> float:
        """Seconds in a ring of `count` devices that send `bandwidth` bytes a second."""
        part = (count - 1) / count
        return part * (self.gathered + 2 * self.summed) / bandwidth


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


def rows(name: str, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Computes the rows of a network, by column."""
    recipes = {
        remat: budget.large(
            name, "bfloat16", "" if remat == "none" else remat, arguments.batch_size
        )
        for remat in arguments.remat
    }
    recipe = next(iter(recipes.values()))
    state, device = budget.shapes(recipe)[0], DEVICES[arguments.device]
    whole = budget.num_bytes(state.params)
    stored = {
        remat: budget.stored_bytes(each) - whole for remat, each in recipes.items()
    }
    compute = 3 * forward_flops(recipe) / device.half
    found = []
    for count in arguments.devices:
        cut = placement(count)
        moved = traffic(state.params, cut)
        own = [
            share_bytes(part, cut) / GIB
            for part in (state.params, state.opt_state, state.ema)
        ]
        inside = count <= arguments.node
        bandwidth = (arguments.link or device.link) if inside else arguments.network
        found.append(
            {
                "network": name,
                "parameters": f"{sum(x.size for x in jax.tree.leaves(state.params)):,}",
                "devices": f"{count}",
                "own parameters / optimizer / average": " / ".join(
                    f"{each:.2f}" for each in own
                ),
                "whole parameters + gradients": f"{2 * whole / GIB:.2f}",
                **{f"stored, {each}": f"{stored[each] / GIB:.2f}" for each in recipes},
                "gathered + summed, GB": (
                    f"{moved.gathered / 1e9:.2f} + {moved.summed / 1e9:.2f}"
                ),
                "products, ms": f"{1e3 * compute:.1f}",
                "collectives, ms": f"{1e3 * moved.seconds(count, bandwidth):.1f}",
            }
        )
    return found


def main() -> None:
    arguments = parse_arguments()
    titles = None
    for name in arguments.networks:
        for row in rows(name, arguments):
            if titles is None:
                titles = list(row)
                print(f"{arguments.device}, {arguments.batch_size} examples a device")
                print(f"| {' | '.join(titles)} |\n|{'---|' * len(titles)}")
            print(f"| {' | '.join(row.values())} |", flush=True)


if __name__ == "__main__":
    main()
