"""Shows what an accelerator would be given: the training step, lowered on a CPU.

    python -m benchmarks.lowered --cases cifar10 --devices h200 v5e
    python -m benchmarks.lowered --cases digits --devices h200 --mesh 8 --fsdp 8

Nothing is executed, and no accelerator is needed. The network of a case has the type of
products, `remat` and batch size of its config. Printed for each device:

- operations by kind and type of the first operand;
- products in float32 by where they come from: `PLAIN` are those that are wanted;
- counts that must be 0: outer products and products with ones (broadcasts and
  reductions that should be no products), other float32 products, transfers to the host,
  bytes of the state that are not donated;
- custom calls, and selects by one flag, which read and write what they select;
- floating-point operations of the products, and the shortest time that the device's
  peaks allow: for each product the longer of its arithmetic and of its operands and
  result passing through memory once, and the state read and written once;
- with `--mesh`, collectives of the step by kind and bytes, of the program that XLA
  partitions for so many CPU devices, which is compiled for that.
"""

import argparse
import contextlib
import functools
import re
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any
from unittest import mock

import jax
from jax._src.cudnn import fused_attention_stablehlo

from benchmarks import budget, ours, stablehlo
from benchmarks.cases import CASES
from benchmarks.devices import DEVICES, Device
from benchmarks.stablehlo import Operation
from diffusionflow.networks import platform
from experiments.runtime import sharding
from experiments.training import step

# where products are float32 by intent: modules on [batch, features], small and few, and
# the gradient of logits where attention is not fused
PLAIN = ("film", "dense", "time_in", "time_out", "label", "vector", "interval")
PLAIN += ("bqhf,bkhf->bhqk",)
HOST = ("infeed", "outfeed", "send", "recv")
CUDNN = 91000  # a version that takes all heads; asked for when attention is traced
TRANSFORM = re.compile(
    r"(?:jvp|transpose|vmap|checkpoint|rematted_computation)\((.*)\)$"
)


def parse_arguments() -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--cases", nargs="+", default=["cifar10", "imagenet64"], choices=CASES)
    add("--devices", nargs="+", default=["h200", "v5e"], choices=DEVICES)
    add("--batch_size", type=int, help="of a device, instead of the config's")
    add("--dtype", default="bfloat16", choices=["float32", "bfloat16"])
    add("--mesh", type=int, default=1, help="CPU devices to partition a step for")
    add("--fsdp", type=int, default=1, help="of these, devices that share parameters")
    return parser.parse_args()


@contextlib.contextmanager
def lowered_for(device: Device) -> Iterator[None]:
    """Traces networks for a device that is not here, its cuDNN included."""
    version = mock.patch.object(
        fused_attention_stablehlo, "check_cudnn_version", return_value=CUDNN
    )
    capable = mock.patch.object(
        fused_attention_stablehlo,
        "check_compute_capability",
        lambda least: device.target.head_features >= {"9.0": 256}.get(least, 1),
    )
    with version, capable, platform.lowered_for(device.target):
        yield


def make_recipe(name: str, dtype: str, batch_size: int | None) -> step.StepConfig:
    """Makes the step of a case, with the batch size of its config."""
    case = CASES[name] | ({} if batch_size is None else dict(batch_size=batch_size))
    return ours.make_recipe(case, dtype)._replace(fused_attention=True)


def lower(recipe: step.StepConfig, device: Device) -> tuple[Any, float, float]:
    """Lowers a step for a device; CPU seconds of tracing and of lowering."""
    train = functools.partial(step.train_step, recipe=recipe)
    arguments = budget.shapes(recipe)
    start = time.process_time()
    with lowered_for(device):
        traced = jax.jit(train, donate_argnums=0).trace(*arguments)
        middle = time.process_time()
        lowered = traced.lower(lowering_platforms=(device.target.platform,))
    return lowered, middle - start, time.process_time() - middle


def origin(scope: str) -> str:
    """The innermost named part of a scope, without transformations."""
    parts = [part for part in scope.split("/") if part]
    while parts:
        part = parts.pop()
        while match := TRANSFORM.match(part):
            part = match[1]
        if part and not part.startswith(("jit(", "jvp(", "transpose(")):
            return part
    return ""


def float32_products(read: list[Operation]) -> Counter[str]:
    """Counts float32 products by their origin."""
    found = Counter()
    for each in read:
        if each.kind in stablehlo.PRODUCTS and each.dtype == "f32":
            found[origin(each.scope)] += each.count
    return found


def must_be_zero(read: list[Operation], kept: int, donated: int) -> dict[str, int]:
    """Counts what an accelerator should not be given.

    Args:
      read: operations of the step.
      kept: bytes of the state.
      donated: bytes of the arguments whose memory is used again.
    """
    count = lambda holds: sum(each.count for each in read if holds(each))
    single = float32_products(read)
    return {
        "outer products": count(lambda each: each.is_outer),
        "products with ones": count(lambda each: each.of_ones),
        "other float32 products": sum(
            number for name, number in single.items() if name not in PLAIN
        ),
        "transfers to the host": count(
            lambda each: each.kind in HOST or "callback" in each.target
        ),
        "bytes of the state not donated": kept - donated,
    }


def bound_seconds(read: list[Operation], kept: int, device: Device) -> float:
    """The shortest time of a step at a device's peaks, see the module."""
    seconds = 2 * kept / device.bandwidth
    for each in read:
        if each.flops:
            peak = device.single if each.dtype == "f32" else device.half
            slower = max(each.flops / peak, each.bytes / device.bandwidth)
            seconds += each.count * slower
    return seconds


def selected_bytes(read: list[Operation]) -> tuple[int, int]:
    """Number and bytes of selects of arrays by one flag."""
    chosen = [
        each
        for each in read
        if each.kind == "select" and each.by_flag and each.bytes > 64
    ]
    return (
        sum(each.count for each in chosen),
        sum(each.count * each.bytes for each in chosen),
    )


def collectives(recipe: step.StepConfig, fsdp: int) -> Counter[str]:
    """Counts collectives and their result bytes of a step on all CPU devices."""
    mesh = sharding.mesh(fsdp)
    placement = sharding.FSDPSharding(mesh, 2**14) if fsdp > 1 else None
    recipe = recipe._replace(placement=placement, fused_attention=False)
    state, batch, key = budget.shapes(recipe)
    shardings = step.shardings(state, mesh, placement)
    cut, same = sharding.along_batch(mesh), sharding.replicated(mesh)
    placed = sharding.abstract(batch, jax.tree.map(lambda leaf: cut, batch))
    train = jax.jit(
        functools.partial(step.train_step, recipe=recipe),
        donate_argnums=0,
        out_shardings=(shardings, same),
    )
    compiled = train.lower(sharding.abstract(state, shardings), placed, key).compile()
    return read_collectives(compiled.as_text())


RESULT = re.compile(
    r"= (.*?) (all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)"
    r"(?:-start)?\("
)
ARRAY = re.compile(r"\b[a-z]+(\d+)\w*\[([\d,]*)\]")


def read_collectives(text: str) -> Counter[str]:
    """Counts `kind` and `kind bytes` in the text of a compiled program."""
    found = Counter()
    for result, kind in RESULT.findall(text):
        found[kind] += 1
        for bits, sizes in ARRAY.findall(result):
            entries = 1
            for size in filter(None, sizes.split(",")):
                entries *= int(size)
            found[f"{kind} bytes"] += entries * int(bits) // 8
    return found


def show(title: str, rows: dict[str, Any]) -> None:
    """Prints a table of two columns."""
    print(f"\n| {title} | |\n|---|---|")
    for name, value in rows.items():
        print(
            f"| {name} | {value:,} |"
            if isinstance(value, int)
            else f"| {name} | {value} |"
        )


def report(name: str, recipe: step.StepConfig, device_name: str) -> None:
    """Prints the tables of a case for a device."""
    device = DEVICES[device_name]
    lowered, tracing, lowering = lower(recipe, device)
    read = stablehlo.operations(lowered)
    kept = budget.num_bytes(budget.shapes(recipe)[0])
    flops = sum(each.count * each.flops for each in read)
    print(f"\n{name}, batch {recipe.batch_size}, for {device_name}")
    kinds, custom = Counter(), Counter()
    for each in read:
        kinds[f"{each.kind} {each.dtype}"] += each.count
        custom[each.target] += each.count
    del custom[""]
    selects, moved = selected_bytes(read)
    bound = bound_seconds(read, kept, device)
    show("operations", dict(kinds.most_common()))
    show("float32 products", dict(float32_products(read).most_common()))
    show("custom calls", dict(custom.most_common()))
    show("must be 0", must_be_zero(read, kept, stablehlo.donated_bytes(lowered)))
    show(
        "of the step",
        {
            "state, MiB": kept // budget.MIB,
            "selects by one flag": selects,
            "their operands and results, MiB": moved // budget.MIB,
            "TFLOP of its products": f"{flops / 1e12:.2f}",
            "shortest time, ms": f"{1e3 * bound:.1f}",
            "examples a second, at most": f"{recipe.batch_size / bound:,.0f}",
            "CPU seconds of tracing": f"{tracing:.0f}",
            "CPU seconds of lowering": f"{lowering:.0f}",
        },
    )


def main() -> None:
    arguments = parse_arguments()
    sharding.split_cpu(arguments.mesh)
    for name in arguments.cases:
        recipe = make_recipe(name, arguments.dtype, arguments.batch_size)
        for device in arguments.devices:
            report(name, recipe, device)
        if arguments.mesh > 1:
            found = collectives(recipe, arguments.fsdp)
            show(f"collectives on {arguments.mesh} devices", dict(found))


if __name__ == "__main__":
    main()
