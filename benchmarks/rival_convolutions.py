"""Runs PyTorch's 3x3 convolutions, channels last, in a process.

Started by `convolutions.py` with the interpreter that it was given, which needs torch
only; see `protocol.py` for what it answers.
"""

import argparse
from collections.abc import Callable

import protocol
import torch

MASKS = {
    "input gradient": (True, False, False),
    "kernel gradient": (False, True, False),
}


def programs(text: str, calls: int) -> dict[str, Callable[[], None]]:
    """Makes the three convolutions of a shape; each program calls its own often."""
    batch, side, channels = map(int, text.split("x"))
    like = dict(memory_format=torch.channels_last)
    x, g = (torch.randn(batch, channels, side, side).to(**like) for _ in range(2))
    kernel = torch.randn(channels, channels, 3, 3).to(**like)
    settings = ((1, 1), (1, 1), (1, 1), False, (0, 0), 1)  # stride 1, one zero around
    backward = torch.ops.aten.convolution_backward
    found = {
        "forward": lambda: torch.nn.functional.conv2d(x, kernel, padding=1),
    }
    for way, mask in MASKS.items():
        found[way] = lambda mask=mask: backward(g, x, kernel, None, *settings, mask)

    def often(fn: Callable[[], object]) -> Callable[[], None]:
        def run() -> None:
            for _ in range(calls):
                fn()

        run()
        return run

    return {f"{text} {way}": often(fn) for way, fn in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", required=True, type=int)
    parser.add_argument("--calls", required=True, type=int)
    parser.add_argument("--shapes", required=True, nargs="+")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    everything = {}
    with torch.no_grad():
        for text in args.shapes:
            everything |= programs(text, args.calls)
        protocol.serve(dict(version=torch.__version__), everything)


if __name__ == "__main__":
    main()
