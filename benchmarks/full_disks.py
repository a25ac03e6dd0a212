"""Trains on full disks of many sizes; then makes room and goes on.

    python benchmarks/full_disks.py --sizes=32

A tiny run of `kill_storm.py` (checkpoints, stored averages, evaluations, pictures, log,
TensorBoard) is made on a tmpfs of its own, of a size from one page to what the run
takes in all; where mounting is not permitted, under `RLIMIT_FSIZE`, which bounds each
file. Each must end by itself, at most `LIMIT` seconds later than a run with room, with
one line on standard error and exit code 1. Then there is room, and the same run must
end with exit code 0 and the weights, averages, `metrics.jsonl` and pictures of a run
with room, bit for bit. The exit code is 1 where one does not.
"""

import argparse
import contextlib
import multiprocessing
import os
import pathlib
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import NamedTuple

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import jax  # noqa: E402

from benchmarks import kill_storm  # noqa: E402
from experiments import cli  # noqa: E402
from experiments.runtime.errors import reporting_path_errors  # noqa: E402
from experiments.training import loop  # noqa: E402

LIMIT = 10  # seconds
ROOM = 64 * 2**20  # bytes
PAGE = 4_096


class End(NamedTuple):
    """How a process ended; `code` is None where it had to be killed."""

    code: int | None
    error: str
    seconds: float


def _train(
    workdir: pathlib.Path, records: pathlib.Path, num_steps: int, most: int | None
) -> None:
    """Trains in a process of its own, its output and digest in `records`."""
    for name, number in (("output", 1), ("error", 2)):
        descriptor = os.open(records / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(descriptor, number)
    sys.stdout, sys.stderr = (open(number, "w", buffering=1) for number in (1, 2))
    if most is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, resource.RLIM_INFINITY))
    jax.config.update("jax_compilation_cache_dir", str(records.parent / "compiled"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    config = kill_storm.tiny_config(num_steps)
    with cli.usage_errors(), reporting_path_errors("workdir", str(workdir)):
        state = loop.train_and_evaluate(config, workdir)
    (records / "digest.txt").write_text(kill_storm.digest(state))


def run(
    workdir: pathlib.Path,
    records: pathlib.Path,
    num_steps: int,
    *,
    most: int | None = None,
    limit: float = 300.0,
) -> End:
    """Runs a process to its end, or kills it after `limit` seconds.

    Args:
      workdir: of the run.
      records: folder for its output.
      num_steps: of the run.
      most: bytes of a file; None for no bound.
      limit: seconds.
    """
    records.mkdir(exist_ok=True)
    arguments = (workdir, records, num_steps, most)
    process = multiprocessing.get_context("fork").Process(target=_train, args=arguments)
    begin = time.monotonic()
    process.start()
    process.join(limit)
    if process.exitcode is None:
        process.kill()
        process.join()
        return End(None, (records / "error").read_text(), time.monotonic() - begin)
    error = (records / "error").read_text()
    return End(process.exitcode, error, time.monotonic() - begin)


@contextlib.contextmanager
def disk(path: pathlib.Path, size: int | None) -> Iterator[bool]:
    """Mounts a tmpfs of `size` bytes; gives whether that is permitted."""
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path)]
    mounted = (
        size is not None and not subprocess.run(command, capture_output=True).returncode
    )
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(path)], check=True)


def make_room(path: pathlib.Path) -> None:
    """Enlarges a mounted disk."""
    options = f"remount,size={ROOM}"
    subprocess.run(["mount", "-o", options, str(path)], check=True)


def used(path: pathlib.Path) -> int:
    """Bytes of all files below a path."""
    return sum(each.stat().st_size for each in path.rglob("*") if each.is_file())


def faults_of(
    folder: pathlib.Path,
    size: int,
    num_steps: int,
    reference: pathlib.Path,
    limit: float,
) -> tuple[str, list[str]]:
    """What is wrong with a run on a disk of `size` bytes; and how it ended, in words."""
    place, records = folder / f"disk{size}", folder / f"records{size}"
    with disk(place, size) as mounted:
        workdir = place / "run"
        workdir.mkdir(exist_ok=True)
        most = None if mounted else size
        end = run(workdir, records, num_steps, most=most, limit=limit)
        found = []
        if end.code == 0:
            words = "had room"
        else:
            words = f"ended after {end.seconds:.1f} s: {end.error.strip()[:150]}"
            if end.code != 1:
                found.append(f"exit code {end.code}")
            if len(end.error.splitlines()) != 1:
                found.append(
                    f"{len(end.error.splitlines())} lines: {end.error[-3_000:]}"
                )
        if mounted:
            make_room(place)
        again = run(workdir, records, num_steps)
        if again.code != 0:
            found.append(f"with room: exit code {again.code}: {again.error[-2_000:]}")
            return words, found
        (workdir / "digest.txt").write_text((records / "digest.txt").read_text())
        return words, found + kill_storm.differences(workdir, reference)


def fill(folder: pathlib.Path, sizes: int, num_steps: int) -> int:
    """Runs all sizes, prints the result, returns the exit code."""
    reference = folder / "reference"
    reference.mkdir()
    for name in ("compiling", "undisturbed"):  # the second has its programs compiled
        workdir = folder / name
        end = run(workdir, folder / "records", num_steps)
        if end.code != 0:
            print(f"with room: {end}")
            return 1
    reference = folder / "undisturbed"
    text = (folder / "records" / "digest.txt").read_text()
    (reference / "digest.txt").write_text(text)
    with disk(folder / "trial", PAGE) as mounted:
        kind = "tmpfs" if mounted else "RLIMIT_FSIZE"
    files = [path.stat().st_size for path in reference.rglob("*") if path.is_file()]
    most = used(reference) if mounted else max(files)
    print(
        f"with room {end.seconds:.1f} s, {used(reference):,} bytes; by {kind}",
        flush=True,
    )
    wrong = 0
    for number in range(sizes):
        share = (number + 1) / sizes
        size = int(most * share if mounted else most**share)
        size = max(PAGE, size // PAGE * PAGE) if mounted else size
        if (folder / f"disk{size}").exists():
            size += PAGE
        limit = end.seconds + LIMIT
        words, found = faults_of(folder, size, num_steps, reference, limit)
        wrong += bool(found)
        print(f"{size:,} bytes: {words}", *found, sep="\n  FAULT: ", flush=True)
    print(f"{sizes} sizes, {wrong} with faults")
    return int(bool(wrong))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=int, default=32)
    parser.add_argument("--num_steps", type=int, default=12)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="full-disks-") as folder:
        sys.exit(fill(pathlib.Path(folder), given.sizes, given.num_steps))


if __name__ == "__main__":
    main()
