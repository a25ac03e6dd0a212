"""What an evaluation of a whole run costs, part by part.

    python -m benchmarks.evaluate_run --size=24x32 --samples=64
    python -m benchmarks.evaluate_run --size=32x32 --samples=2000 --sampler=ddim@25

Trains the network of `configs/digits.py` on smooth random RGB images for a few steps,
evaluates it in a process of its own with an empty cache of compiled programs, and
prints what each part took: seconds, and CPU seconds of all cores. Where other programs
run, the CPU seconds count.
"""

import argparse
import os
import pathlib
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

ENDED = re.compile(r"^(?P<part>[^:]+): (\d+ h )?(\d+ min )?\d+ s$")


class Part(NamedTuple):
    """A part of an evaluation.

    Fields:
      name: as its line has it.
      seconds: from the end of the part before.
      cpu: CPU seconds in that time.
    """

    name: str
    seconds: float
    cpu: float


def parse() -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", default="24x32", help="height x width of the images")
    parser.add_argument("--images", type=int, default=600, help="how many there are")
    parser.add_argument("--samples", type=int, default=64, help="of each sampler")
    parser.add_argument("--sampler", action="append", help="that of the config if none")
    parser.add_argument("--flags", default="", help="more flags of evaluate, by spaces")
    parser.add_argument("--verbose", action="store_true", help="print all lines")
    return parser.parse_args()


def write_images(path: pathlib.Path, size: tuple[int, int], count: int) -> None:
    """Writes smooth random images of two classes."""
    rng = np.random.RandomState(0)
    coarse = rng.uniform(0, 255, (count, size[0] // 8, size[1] // 8, 3))
    images = coarse.repeat(8, 1).repeat(8, 2) + rng.normal(0, 10, (count, *size, 3))
    stored = np.clip(images, 0, 255).astype(np.uint8)
    np.savez(path, images=stored, labels=np.arange(count) % 2)


def command(name: str, *flags: str) -> list[str]:
    """A command of the application, as a process of its own."""
    return [sys.executable, "-m", f"experiments.{name}", *flags]


def train(folder: pathlib.Path, workdir: pathlib.Path) -> None:
    """Trains the network for ten steps."""
    entries = {
        "data.name": "npz",
        "data.path": str(folder / "images.npz"),
        "num_steps": 10,
        "batch_size": 32,
        "optimizer.warmup_steps": 2,
        "eval.every": 0,
        "samples.every": 0,
        "log.every": 5,
        "checkpoint.every": 10,
        "checkpoint.keep_best": 0,
    }
    flags = [f"--config.{name}={value}" for name, value in entries.items()]
    begin = command("train", "--config=configs/digits.py", f"--workdir={workdir}")
    subprocess.run([*begin, *flags], check=True, stdout=sys.stderr)


def cpu_seconds(pid: int) -> float:
    """CPU seconds of a process so far, all its threads."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def parts(flags: list[str], cache: str, verbose: bool) -> Iterator[Part]:
    """Evaluates, and yields the parts as they end."""
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": cache}
    begin, cpu = time.perf_counter(), 0.0
    with subprocess.Popen(
        command("evaluate", *flags), stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        for line in process.stdout or ():
            if verbose:
                print(line, end="", flush=True)
            if match := ENDED.match(line.rstrip()):
                now, used = time.perf_counter(), cpu_seconds(process.pid)
                yield Part(match["part"], now - begin, used - cpu)
                begin, cpu = now, used
    if process.returncode:
        raise SystemExit(f"the evaluation ended with exit code {process.returncode}")


def main() -> None:
    arguments = parse()
    height, width = map(int, arguments.size.split("x"))
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        write_images(folder / "images.npz", (height, width), arguments.images)
        train(folder, folder / "run")
        flags = [f"--workdir={folder / 'run'}", f"--num_samples={arguments.samples}"]
        flags += [f"--sampler={each}" for each in arguments.sampler or ()]
        flags += arguments.flags.split()
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        begin = time.perf_counter()
        print(f"{'seconds':>8}{'CPU':>8}  part")
        for part in parts(flags, f"{folder}/evaluation", arguments.verbose):
            print(f"{part.seconds:8.1f}{part.cpu:8.1f}  {part.name}", flush=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        used = sum(
            getattr(after, each) - getattr(before, each)
            for each in ("ru_utime", "ru_stime")
        )
        print(f"{time.perf_counter() - begin:8.1f}{used:8.1f}  in all")
        print(f"peak memory {after.ru_maxrss / 2**20:.2f} GiB")


if __name__ == "__main__":
    main()
