"""Measures 3x3 convolutions of U-Nets, by shape, against PyTorch's.

    python -m benchmarks.convolutions --torch_python=PATH/TO/python

Of each shape the convolution, the gradient of its input and that of its kernel are
compiled alone, as the trainer compiles, and timed in turns with those of PyTorch,
channels last. Printed are GFLOP/s, and the medians of the ratios of times with their
quartiles. Operands are in the caches of the processor, as they are not in a step.

With `--custom_call` there is a row for oneDNN's convolution in jaxlib, too, which XLA
does not use: the call that its passes would make. The name is internal: another version
than jaxlib 0.10.2 may not know it, and then the process ends.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import protocol
from benchmarks.sampling import ROOT
from experiments.runtime import allocator, sharding

# batch, side, channels: levels of the digits network and of the 32x32 U-Net
SHAPES = (
    (128, 8, 32),
    (128, 8, 64),
    (128, 4, 64),
    (128, 4, 128),
    (16, 32, 64),
    (16, 16, 128),
)
WAYS = ("forward", "input gradient", "kernel gradient")
CUSTOM = ("forward, oneDNN", "input gradient, oneDNN")
CALLS = 5  # of each in a round
LABELS = ("NHWC", "HWIO", "NHWC")


def parse() -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--torch_python", required=True, help="interpreter with torch")
    add("--rounds", type=int, default=15, help="in which each process has its turn")
    add("--threads", type=int, default=2, help="of each process, one a CPU")
    add("--custom_call", action="store_true", help="oneDNN's in jaxlib, too")
    return parser.parse_args()


def convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolves maps of [batch, side, side, channels], zeros around them."""
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=LABELS
    )


def convolve_onednn(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolves by the custom call of XLA's passes for oneDNN."""
    data = dict(data=dict(batch_dim=0, feature_dim=3, spatial_dims=[1, 2]))
    weights = dict(input_feature_dim=2, output_feature_dim=3, spatial_dims=[0, 1])
    ones = [1, 1]
    window = dict(size=[3, 3], pad_left=ones, pad_right=ones, strides=ones)
    settings = dict(
        dims=4,
        input=data,
        kernel=dict(filter=weights),
        output=data,
        window=window | dict(window_dilations=ones),
        feature_groups=1,
    )
    call = jax.ffi.ffi_call(
        "__onednn$convolution",
        jax.ShapeDtypeStruct((*x.shape[:3], kernel.shape[3]), x.dtype),
        custom_call_api_version=2,
        legacy_backend_config=json.dumps(dict(onednn_conv_config=settings)),
    )
    return call(x, kernel)


def programs(
    shape: tuple[int, int, int], custom_call: bool
) -> dict[str, Callable[[], None]]:
    """Compiles the three convolutions of a shape; each program calls its own often."""
    batch, side, channels = shape
    sizes = [(batch, side, side, channels), (3, 3, channels, channels)]
    x, kernel, g = (
        jax.random.normal(jax.random.key(number), size)
        for number, size in enumerate((*sizes, sizes[0]))
    )
    pull = lambda x, kernel, g: jax.vjp(convolve, x, kernel)[1](g)
    wanted = {
        WAYS[0]: lambda x, kernel, g: convolve(x, kernel),
        WAYS[1]: lambda x, kernel, g: pull(x, kernel, g)[0],
        WAYS[2]: lambda x, kernel, g: pull(x, kernel, g)[1],
    }
    if custom_call:
        wanted |= {
            CUSTOM[0]: lambda x, kernel, g: convolve_onednn(x, kernel),
            CUSTOM[1]: lambda x, kernel, g: convolve_onednn(
                g, jnp.flip(kernel, (0, 1)).swapaxes(2, 3)
            ),
        }
    options = sharding.compiler_options()
    found = {}
    for way, fn in wanted.items():
        compiled = jax.jit(fn).lower(x, kernel, g).compile(compiler_options=options)

        def run(compiled=compiled):
            for _ in range(CALLS):
                jax.block_until_ready(compiled(x, kernel, g))

        run()
        found[name_of(shape, way)] = run
    return found


def name_of(shape: tuple[int, int, int], way: str) -> str:
    """Names a program, in both processes alike."""
    return f"{'x'.join(map(str, shape))} {way}"


def serve(custom_call: bool) -> None:
    """Times our convolutions on request."""
    allocator.keep_freed_memory()  # as the commands do
    everything = {}
    for shape in SHAPES:
        everything |= programs(shape, custom_call)
    protocol.serve(dict(version=jax.__version__), everything)


def measure(args: argparse.Namespace) -> dict[str, dict[str, list[float]]]:
    """Measures seconds of every program in every round, of ours and PyTorch."""
    script = f"from benchmarks import convolutions as c; c.serve({args.custom_call})"
    mine = [sys.executable, "-c", script]
    theirs = [str(ROOT / "benchmarks" / "rival_convolutions.py")]
    theirs += [f"--threads={args.threads}", f"--calls={CALLS}", "--shapes"]
    theirs += ["x".join(map(str, shape)) for shape in SHAPES]
    clients = dict(
        ours=protocol.Client(mine, str(ROOT)),
        rival=protocol.Client([args.torch_python, *theirs], str(ROOT)),
    )
    versions = [f"{client.facts['version']}" for client in clients.values()]
    print(f"jax {versions[0]}, torch {versions[1]}, {args.threads} threads")
    seconds: dict[str, dict[str, list[float]]] = {who: {} for who in clients}
    for number in range(args.rounds + 1):
        for who in list(clients)[:: 1 if number % 2 else -1]:
            answer: dict[str, Any] = clients[who].run(1)
            answer.pop("peak_rss_bytes")
            for name, values in answer.items():
                of_name = seconds[who].setdefault(name, [])
                of_name += values if number else []  # the first warms up
    for client in clients.values():
        client.close()
    return seconds


def report(seconds: dict[str, dict[str, list[float]]]) -> None:
    """Prints the table."""
    titles = "batch, side, channels", "", "ours, GFLOP/s", "PyTorch"
    print(f"| {' | '.join(titles)} | ours / PyTorch, time | quartiles |")
    print("|---|---|---|---|---|---|")
    for shape in SHAPES:
        batch, side, channels = shape
        flops = CALLS * 2 * 9 * batch * side**2 * channels**2
        for way in (*WAYS, *CUSTOM):
            name = name_of(shape, way)
            if name not in seconds["ours"]:
                continue
            rival = name_of(shape, way.partition(",")[0])
            both = seconds["ours"][name], seconds["rival"][rival]
            rates = [f"{flops / statistics.median(each) / 1e9:.0f}" for each in both]
            ratios = [a / b for a, b in zip(*both, strict=True)]
            low, middle, high = np.percentile(ratios, [25, 50, 75])
            cells = (", ".join(map(str, shape)), way, *rates, f"{middle:.2f}")
            print(f"| {' | '.join(cells)} | {low:.2f} to {high:.2f} |")


def main() -> None:
    args = parse()
    protocol.keep_to(args.threads)
    report(measure(args))


if __name__ == "__main__":
    main()
