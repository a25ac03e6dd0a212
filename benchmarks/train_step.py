"""Measures the speed of a training step, and of the same network in PyTorch.

    python -m benchmarks.train_step --torch_python=PATH/TO/python

Times the real step of `experiments` (keys, loss, network, gradients, clipping, AdamW,
average, log sums) and the network alone, in rounds that alternate with the rival, and
prints medians. Cold and warm compilation are separate processes that share an empty
directory as compilation cache. Without an interpreter that imports torch and diffusers
only our side is printed.
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


def parse() -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add(
        "--cases",
        nargs="+",
        default=["digits", "small32", "dit_tiny"],
        choices=list(CASES),
    )
    add("--batch_size", type=int, help="instead of that of the case")
    add("--dtype", default="float32", choices=["float32", "bfloat16"])
    add("--torch_python", help="interpreter with torch and diffusers")
    add("--torch_compile", action="store_true", help="the rival under torch.compile")
    add("--rounds", type=int, default=5, help="alternations with the rival")
    add("--steps", type=int, default=5, help="steps a round")
    add(
        "--fresh",
        action="store_true",
        help="time the steps in the process that compiled them, not in the next one",
    )
    add("--cpu_devices", type=int, default=1, help="that share a batch, on a CPU")
    add("--peak_flops", type=float, help="of the device, for the FLOP utilisation")
    add("--options", default="", help="XLA options as JSON; default: the trainer's")
    add("--json", type=pathlib.Path, help="also write everything measured here")
    return parser.parse_args()


def our_client(args: argparse.Namespace, case: str, cache: str) -> protocol.Client:
    """Starts our process, with its compiled programs."""
    command = [sys.executable, "-m", "benchmarks.ours", f"--case={case}"]
    command += [f"--dtype={args.dtype}", f"--options={args.options}"]
    command += [f"--cpu_devices={args.cpu_devices}"]
    return protocol.Client([*command, f"--cache={cache}"], str(ROOT))


def rival_client(args: argparse.Namespace, case: str) -> protocol.Client | None:
    """Starts the rival's process, or returns None and a line that says why."""
    if args.torch_python is None:
        print("no rival: --torch_python names no interpreter")
        return None
    script = str(ROOT / "benchmarks" / "rival.py")
    command = [args.torch_python, script, f"--case={case}", f"--dtype={args.dtype}"]
    command += ["--compile"] * args.torch_compile
    try:
        return protocol.Client(command, str(ROOT))
    except (RuntimeError, OSError) as error:
        print(f"no rival: {args.torch_python}: {error}")
        return None


def measure(args: argparse.Namespace, name: str) -> dict[str, Any]:
    """Measures everything about one case, as JSON values."""
    case = CASES[name] | (
        dict(batch_size=args.batch_size) if args.batch_size is not None else {}
    )
    text = json.dumps(case)
    with tempfile.TemporaryDirectory() as cache:
        cold = our_client(args, text, cache)
        ours = cold
        if not args.fresh:
            cold.close()
            ours = our_client(args, text, cache)
    rival = rival_client(args, text)
    clients = {"ours": ours} | ({"rival": rival} if rival else {})
    rounds = {who: [] for who in clients}
    for _ in range(args.rounds + 1):
        for who, client in clients.items():
            rounds[who].append(client.run(args.steps))
    for client in clients.values():
        client.close()
    facts = {who: client.facts for who, client in clients.items()}
    facts["ours"]["cold"] = cold.facts
    return dict(
        name=name, case=case, facts=facts, rounds={k: v[1:] for k, v in rounds.items()}
    )


def median(rounds: list[dict[str, Any]], program: str) -> float:
    """Returns the median seconds of a program over all rounds."""
    return statistics.median(s for answer in rounds for s in answer[program])


def row(label: str, *cells: str) -> None:
    """One line of a table."""
    print(f"  {label:32}" + "".join(f"{cell:>14}" for cell in cells))


def report(result: dict[str, Any], peak_flops: float | None) -> None:
    """Prints the table of one case."""
    facts, rounds, case = result["facts"], result["rounds"], result["case"]
    who, ours = list(rounds), facts["ours"]
    step = {w: median(rounds[w], "step") for w in who}
    network = {w: median(rounds[w], "network") for w in who}
    place = f"{ours['device_count']} x {ours['device']}"
    print(f"\n{result['name']}: batch {case['batch_size']} on {place}")
    row("", *("jax" if w == "ours" else "torch" for w in who))
    row("parameters", *(f"{facts[w]['parameters']:,}" for w in who))
    row("step, ms", *(f"{1e3 * step[w]:.1f}" for w in who))
    row("examples/s", *(f"{case['batch_size'] / step[w]:.0f}" for w in who))
    row("network alone, ms", *(f"{1e3 * network[w]:.1f}" for w in who))
    row("outside the network", *(f"{1 - network[w] / step[w]:.1%}" for w in who))
    resident = [rounds[w][-1]["peak_rss_bytes"] for w in who]
    row("peak resident memory, MB", *(f"{size / 1e6:.0f}" for size in resident))
    if ours["peak_device_bytes"]:
        on_device = [facts[w]["peak_device_bytes"] for w in who]
        row("device memory, MB", *(f"{(size or 0) / 1e6:.0f}" for size in on_device))
    report_ours(ours, step["ours"], peak_flops)
    if "rival" in rounds:
        ratios = (f"{t['ours'] / t['rival']:.2f}" for t in (step, network))
        print("  ours / rival: step {}, network {}".format(*ratios))


def report_ours(facts: dict[str, Any], step: float, peak_flops: float | None) -> None:
    """Prints what is measured of our side only."""
    print(f"  XLA options of jax: {json.dumps(facts['options'])}")
    for label, key in (("init", "init_seconds"), ("step", "compile_seconds")):
        times = f"{facts['cold'][key]:.1f} / {facts[key]:.1f}"
        row(f"compile {label}, cold / warm, s", times)
    rate = facts["network_flops"] / step
    row("model GFLOP/s", f"{rate / 1e9:.0f}")
    if peak_flops:
        row("model FLOP utilisation", f"{rate / peak_flops:.1%}")


def main() -> None:
    args = parse()
    results = []
    for name in args.cases:
        results.append(measure(args, name))
        report(results[-1], args.peak_flops)
    if args.json:
        args.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
