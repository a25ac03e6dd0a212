"""Measures how fast a folder of JPEG files is read, and the same by PyTorch.

    python -m benchmarks.data_workers --torch_python=PATH/TO/python

Writes a folder of images of 224x224, and reads batches of it in random order, half of
the images mirrored, by `config.data.workers` processes and by as many of PyTorch's
`DataLoader` with Pillow, in rounds that alternate. What both have read ahead while the
other one was measured does not count. Images a second: median (lowest to highest
round); CPU time of all processes of a side for an image that was read, on Linux, which
other work on the machine changes less. Without an interpreter that imports torch and
Pillow only our side is printed.
"""

import argparse
import os
import pathlib
import statistics
import sys
import tempfile
import time

import numpy as np
from PIL import Image

from benchmarks import protocol

ROOT = pathlib.Path(__file__).resolve().parent.parent
SIZE = 224
COUNT = 1_024  # images
AHEAD = 12  # batches of a round that may have been read before it
IDLE = 0.02  # CPU seconds in half a second of a process that reads nothing
PATIENCE = 30.0  # seconds until it reads nothing


def parse() -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--torch_python", help="interpreter with torch and Pillow")
    add("--workers", nargs="+", type=int, default=[0, 1, 2])
    add("--batch_size", type=int, default=64)
    add("--rounds", type=int, default=9, help="alternations with the rival")
    add("--batches", type=int, default=20, help="that count in a round")
    add("--serve", metavar="FOLDER", help=argparse.SUPPRESS)
    return parser.parse_args()


def write_folder(folder: pathlib.Path) -> None:
    """Writes images of two classes: smooth, with some grain, as photographs are."""
    rng = np.random.RandomState(0)
    for number in range(COUNT):
        coarse = rng.randint(0, 256, (14, 14, 3)).astype(np.uint8)
        smooth = Image.fromarray(coarse).resize((SIZE, SIZE), Image.Resampling.BICUBIC)
        grain = rng.normal(0, 6, (SIZE, SIZE, 1))
        image = np.clip(np.asarray(smooth) + grain, 0, 255).astype(np.uint8)
        path = folder / "ab"[number % 2] / f"{number:04d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path, quality=90)


def serve(folder: str, workers: int, batch_size: int) -> None:
    """Answers with the seconds of each batch of ours."""
    from experiments.data import image_folder
    from experiments.data.loader import Batches
    from experiments.data.read_ahead import iterate

    found = image_folder.folder(path=folder, flips=True)
    numbered = Batches(
        found.train, seed=0, batch_size=batch_size, augment_fn=found.augment_fn
    )
    start = time.perf_counter()
    batches = iterate(numbered, 0, workers)
    next(batches)
    facts = {"first_batch_seconds": time.perf_counter() - start}
    protocol.serve(facts, {"batch": lambda: next(batches)})
    batches.close()


def clients(
    args: argparse.Namespace, folder: str, workers: int
) -> dict[str, protocol.Client]:
    """Our process and the rival's, if there is one."""
    more = [f"--workers={workers}", f"--batch_size={args.batch_size}"]
    ours = [sys.executable, "-m", "benchmarks.data_workers", f"--serve={folder}"]
    found = {"ours": protocol.Client([*ours, *more], str(ROOT))}
    if args.torch_python:
        script = str(ROOT / "benchmarks" / "rival_data.py")
        command = [args.torch_python, script, folder, *more]
        found["torch"] = protocol.Client(command, str(ROOT))
    return found


def cpu_seconds(pid: int) -> float:
    """Of a process and those that it started; NaN where the system does not say."""
    proc = pathlib.Path("/proc", str(pid))
    if not proc.exists():
        return float("nan")
    fields = (proc / "stat").read_text().rpartition(")")[2].split()
    own = sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")
    below = [
        child
        for each in (proc / "task").iterdir()
        for child in (each / "children").read_text().split()
    ]
    return own + sum(cpu_seconds(int(child)) for child in below)


def settled_cpu_seconds(pid: int) -> float:
    """As `cpu_seconds`, once no more is read ahead; NaN where the system says none."""
    seconds, end = cpu_seconds(pid), time.monotonic() + PATIENCE
    while time.monotonic() < end:
        time.sleep(0.5)
        before, seconds = seconds, cpu_seconds(pid)
        if not seconds - before > IDLE:
            return seconds
    raise RuntimeError(f"process {pid} did not come to rest in {PATIENCE} s")


def measure(args: argparse.Namespace, folder: str, workers: int) -> None:
    """Prints a row for a number of workers."""
    both = clients(args, folder, workers)
    rates: dict[str, list[float]] = {who: [] for who in both}
    for client in both.values():  # the first round warms up
        client.run(AHEAD + args.batches)
    before = {who: settled_cpu_seconds(client.pid) for who, client in both.items()}
    for _ in range(args.rounds):
        for who, client in both.items():
            seconds = client.run(AHEAD + args.batches)["batch"][AHEAD:]
            rates[who].append(len(seconds) * args.batch_size / sum(seconds))
    after = {who: settled_cpu_seconds(client.pid) for who, client in both.items()}
    for client in both.values():
        client.close()
    read = args.rounds * (AHEAD + args.batches) * args.batch_size
    cells = [
        f"{who} {statistics.median(each):,.0f} ({min(each):,.0f} to {max(each):,.0f}), "
        f"{1e3 * (after[who] - before[who]) / read:.2f} CPU ms an image, first batch "
        f"{both[who].facts['first_batch_seconds']:.1f} s"
        for who, each in rates.items()
    ]
    if len(rates) == 2:
        pairs = zip(rates["ours"], rates["torch"], strict=True)
        ratio = statistics.median(ours / theirs for ours, theirs in pairs)
        cells.append(f"ours / torch {ratio:.2f}")
    print(f"{workers} workers, images/s: {'; '.join(cells)}", flush=True)


def main() -> None:
    args = parse()
    if args.serve:
        serve(args.serve, args.workers[0], args.batch_size)
        return
    with tempfile.TemporaryDirectory() as folder:
        images = pathlib.Path(folder, "images")
        write_folder(images)
        os.environ["XDG_CACHE_HOME"] = folder  # for what is noted of decoded files
        for workers in args.workers:
            measure(args, str(images), workers)


if __name__ == "__main__":
    main()
