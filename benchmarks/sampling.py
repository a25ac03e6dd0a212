"""Measures the time of sampling against diffusers, on the same weights.

    python -m benchmarks.sampling --torch_python=PATH/TO/python

The U-Net of `configs/digits.py`, with random weights and diffusers' sinusoids of the
time, samples by 20 steps of Heun's method in a process of ours, by the compiled program
of `experiments.sample`, and in one of diffusers, by its `UNet2DModel` and
`HeunDiscreteScheduler` on the weights that `diffusionflow export` writes, under
`torch.inference_mode`, channels last. diffusers has one number of groups for all
normalisations: there each of them is given that of ours, so that both are the same
function; with `--channels=128` they are so without it.

The processes take turns. Printed are medians, the medians of the ratios of the rounds
with their quartiles, of sampling and of one call of the network on as many examples,
and the largest deviations of samples and outputs, relative to the largest number: both
start from the same noise and take the same steps.
"""

import argparse
import json
import pathlib
import statistics
import sys
import tempfile
from typing import Any

import numpy as np

from benchmarks import protocol

ROOT = pathlib.Path(__file__).resolve().parent.parent
CALLS = 5  # of the network in a round


def parse() -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--torch_python", required=True, help="interpreter with torch and diffusers")
    add("--torch_compile", action="store_true", help="the rival under torch.compile")
    add("--torch_batch_size", type=int, help="samples at once there; default: all")
    add("--channels", type=int, default=32, help="of the first level of the network")
    add("--count", type=int, default=256, help="samples")
    add("--rounds", type=int, default=9, help="in which each process has its turn")
    add("--threads", type=int, default=2, help="of each process, one a CPU")
    add("--json", type=pathlib.Path, help="also write everything measured here")
    return parser.parse_args()


def start(args: argparse.Namespace, folder: str) -> dict[str, protocol.Client]:
    """Starts both processes, ours first, as the other one opens what it writes."""
    given = [f"--folder={folder}", f"--calls={CALLS}"]
    command = [sys.executable, "-m", "benchmarks.our_sampling", *given]
    command += [f"--channels={args.channels}", f"--count={args.count}"]
    ours = protocol.Client(command, str(ROOT))
    script = str(ROOT / "benchmarks" / "rival_sampling.py")
    command = [args.torch_python, script, *given, f"--threads={args.threads}"]
    command += [f"--batch_size={args.torch_batch_size or args.count}"]
    command += ["--compile"] * args.torch_compile
    return dict(ours=ours, rival=protocol.Client(command, str(ROOT)))


def deviations(folder: pathlib.Path) -> dict[str, float]:
    """Computes the largest deviations, relative to the largest number."""
    ours, theirs = (np.load(folder / f"{who}.npz") for who in ("ours", "theirs"))
    return {
        name: float(
            np.abs(ours[name] - theirs[name]).max() / np.abs(theirs[name]).max()
        )
        for name in ours.files
    }


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Measures everything, as JSON values."""
    with tempfile.TemporaryDirectory() as folder:
        clients = start(args, folder)
        deviation = deviations(pathlib.Path(folder))
    seconds = {who: dict(sampling=[], calls=[]) for who in clients}
    for number in range(args.rounds + 1):
        for who in list(clients)[:: 1 if number % 2 else -1]:
            answer = clients[who].run(1)
            for name, values in seconds[who].items():
                values += answer[name] if number else []  # the first warms up
    for client in clients.values():
        client.close()
    facts = {who: client.facts for who, client in clients.items()}
    return dict(seconds=seconds, deviation=deviation, facts=facts)


def report(args: argparse.Namespace, found: dict[str, Any]) -> None:
    """Prints the table."""
    facts, seconds = found["facts"], found["seconds"]
    ours, rival = facts["ours"], facts["rival"]
    versions = ours["versions"] | rival["versions"]
    print(", ".join(f"{name} {version}" for name, version in versions.items()))
    print(f"{ours['device']}, {args.threads} threads, {args.rounds} rounds")
    print(f"parameters {ours['parameters']:,} / {rival['parameters']:,}\n")
    print("| | ours, ms | diffusers, ms | ours / diffusers | quartiles |")
    print("|---|---|---|---|---|")
    titles = dict(
        sampling=f"{args.count} samples, {rival['num_calls']} calls of the network",
        calls=f"one call, {args.count} examples",
    )
    for name, title in titles.items():
        both = [seconds[who][name] for who in ("ours", "rival")]
        share = 1e3 if name == "sampling" else 1e3 / CALLS
        cells = [f"{share * statistics.median(each):.1f}" for each in both]
        ratios = [a / b for a, b in zip(*both, strict=True)]
        low, middle, high = np.percentile(ratios, [25, 50, 75])
        print(f"| {title} | {' | '.join(cells)} | {middle:.3f} ", end="")
        print(f"| {low:.3f} to {high:.3f} |")
    print("\nlargest deviation, relative to the largest number:", end=" ")
    print(", ".join(f"{name} {each:.1e}" for name, each in found["deviation"].items()))


def main() -> None:
    args = parse()
    protocol.keep_to(args.threads)
    found = measure(args)
    report(args, found)
    if args.json:
        args.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
