"""Measures costs and gains of remat, scan, bfloat16, microbatches, convolutions.

    python -m benchmarks.choices

Each choice is a process of its own with its own compiled training step; they run in
turns, round after round, and the table has medians. Temporaries are what XLA plans on
this device; the compilation is cold, one process at a time.
"""

import argparse
import json
import pathlib
import statistics
import sys
import tempfile
from typing import Any

from benchmarks import protocol
from benchmarks.cases import CASES

ROOT = pathlib.Path(__file__).resolve().parent.parent
# by name: entries of the network, of the case, type of the products, XLA's options
CHOICES = {
    "as shipped": ({}, {}, "float32", ""),
    "remat=nothing_saveable": ({"remat": "nothing_saveable"}, {}, "float32", ""),
    "remat=dots_saveable": ({"remat": "dots_saveable"}, {}, "float32", ""),
    "scan": ({"scan": True}, {}, "float32", ""),
    "dtype=bfloat16": ({}, {}, "bfloat16", ""),
    "accumulate=4": ({}, {"accumulate": 4}, "float32", ""),
    "XLA's own options": ({}, {}, "float32", "{}"),
}


def parse() -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--cases", nargs="+", default=["digits", "small32", "dit_tiny"], choices=CASES)
    add("--choices", nargs="+", default=list(CHOICES), choices=CHOICES)
    add("--rounds", type=int, default=5, help="in which each choice has its turn")
    add("--steps", type=int, default=3, help="steps a turn")
    return parser.parse_args()


def start(name: str, choice: str) -> protocol.Client | None:
    """Starts the process of a choice; None where the network has no such entry."""
    network, entries, dtype, options = CHOICES[choice]
    case = CASES[name] | entries
    if "scan" in network and case["network"]["name"] != "dit":
        return None
    case["network"] = case["network"] | network
    with tempfile.TemporaryDirectory() as cache:
        command = [sys.executable, "-m", "benchmarks.ours", f"--cache={cache}"]
        command += [f"--case={json.dumps(case)}", f"--dtype={dtype}"]
        command += [f"--options={options}", "--cpu_devices=1"]
        return protocol.Client(command, str(ROOT))


def measure(name: str, arguments: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Measures facts of each process, and seconds a step, by choice."""
    started = {choice: start(name, choice) for choice in arguments.choices}
    clients = {choice: client for choice, client in started.items() if client}
    seconds = {choice: [] for choice in clients}
    for turn in range(arguments.rounds + 1):
        for choice, client in clients.items():
            answer = client.run(arguments.steps)["step"]
            seconds[choice] += answer if turn else []
    for client in clients.values():
        client.close()
    return {
        choice: client.facts | {"seconds": statistics.median(seconds[choice])}
        for choice, client in clients.items()
    }


def main() -> None:
    arguments = parse()
    for name in arguments.cases:
        found = measure(name, arguments)
        first = next(iter(found.values()))
        size = f"batch {CASES[name]['batch_size']}, {first['parameters']:,} parameters"
        print(f"\n{name}, {size}, {first['device']}\n")
        print("| choice | step, ms | of the first | temporaries, MiB | compile, s |")
        print("|---|---|---|---|---|")
        for choice, facts in found.items():
            cells = f"{1e3 * facts['seconds']:.0f}"
            cells += f" | {facts['seconds'] / first['seconds']:.2f}"
            cells += f" | {facts['temporary_bytes'] / 2**20:,.0f}"
            print(
                f"| {choice} | {cells} | {facts['compile_seconds']:.1f} |", flush=True
            )


if __name__ == "__main__":
    main()
