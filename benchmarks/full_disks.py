"""Trains on full disks of many sizes; then makes room and goes on.

    python benchmarks/full_disks.py --sizes=32

A tiny run (that of `kill_storm.py`: checkpoints, stored averages, evaluations,
pictures, log, TensorBoard) is made on a tmpfs of its own, of a size from one page to
what the run takes in all; where mounting is not permitted, under `RLIMIT_FSIZE`, which
bounds each file. It must end within `LIMIT` seconds with one line on standard error and
exit code 1. Then there is room, and the same run must end with exit code 0 and the
state, `metrics.jsonl` and pictures of a run with room, bit for bit. All runs are made
in this process with the same compiled programs; that a process of its own ends is shown
by `tests/cli/test_what_happens.py`. The exit code is 1 where one does not.
"""

import argparse
import contextlib
import os
import pathlib
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import disks, kill_storm  # noqa: E402
from experiments.runtime import exit_codes  # noqa: E402
from experiments.runtime.errors import reporting_path_errors  # noqa: E402
from experiments.training import loop  # noqa: E402
from experiments.training.trainer import Trainer  # noqa: E402

LIMIT = 10  # seconds
ROOM = 2**26  # bytes


class Hang(BaseException):
    """Raised in a run that does not end."""


class End(NamedTuple):
    """How a run ended."""

    code: int
    error: str
    seconds: float


@contextlib.contextmanager
def captured(path: pathlib.Path) -> Iterator[None]:
    """Sends standard output and error, those of threads of C++ too, to files."""
    kept = [os.dup(number) for number in (1, 2)]
    try:
        for number, name in ((1, "output"), (2, "error")):
            mode = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
            os.dup2(os.open(path / name, mode), number)
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, descriptor in zip((1, 2), kept, strict=True):
            os.dup2(descriptor, number)
            os.close(descriptor)


@contextlib.contextmanager
def bounded(most: int | None) -> Iterator[None]:
    """Bounds every file that is written, in bytes; None for no bound."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    if most is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def run(
    workdir: pathlib.Path,
    records: pathlib.Path,
    trainer: Trainer,
    most: int | None,
    limit: int = 10 * LIMIT,
) -> End:
    """Trains to the end or to an error, as `experiments.train` does.

    Args:
      workdir: of the run; its digest is written there.
      records: folder for its output.
      trainer: with its compiled programs.
      most: bytes of a file; None for no bound.
      limit: seconds after which a run is ended.
    """

    def late(*unused: Any) -> None:
        raise Hang

    signal.signal(signal.SIGALRM, late)
    begin, code = time.monotonic(), 0
    with captured(records):
        try:
            signal.alarm(limit)
            with (
                bounded(most),
                exit_codes.usage_errors(),
                reporting_path_errors("workdir", str(workdir)),
            ):
                state = loop.train_and_evaluate(trainer.config, workdir)
            (workdir / "digest.txt").write_text(kill_storm.digest(state))
        except SystemExit as end:
            code = int(end.code or 0)
        except Hang:
            code = -1
        finally:
            signal.alarm(0)
    return End(code, (records / "error").read_text(), time.monotonic() - begin)


def tried(folder: pathlib.Path, size: int, trainer: Trainer) -> tuple[str, list[str]]:
    """How a run on a disk of `size` bytes ended, in words; and its faults."""
    place = folder / f"disk{size}"
    with disks.disk(place, size) as mounted:
        workdir, found = place / "run", []
        end = run(workdir, folder, trainer, None if mounted else size)
        words = f"{end.seconds:.1f} s, {end.error.strip()[:150] or 'had room'}"
        if end.code not in (0, 1) or end.seconds > LIMIT:
            found.append(f"exit code {end.code} after {end.seconds:.1f} s")
        if (lines := len(end.error.splitlines())) != end.code:
            found.append(f"{lines} lines: {end.error[-3_000:]}")
        if mounted:
            disks.resize(place, ROOM)
        again = run(workdir, folder, trainer, None)
        if again.code or again.error:
            found.append(f"with room: exit code {again.code}: {again.error[-2_000:]}")
            return words, found
        return words, found + kill_storm.differences(workdir, folder / "undisturbed")


def fill(folder: pathlib.Path, sizes: int, num_steps: int) -> int:
    """Runs all sizes, prints the result, returns the exit code."""
    trainer = Trainer(kill_storm.tiny_config(num_steps))
    loop.Trainer = lambda *_: trainer  # its programs are compiled once
    exit_codes.hide_failed_writes()
    reference = folder / "undisturbed"
    first = run(reference, folder, trainer, None, limit=1_000)  # compiles
    print(f"with room: exit code {first.code} {first.error}".strip(), flush=True)
    with disks.disk(folder / "trial", disks.PAGE) as mounted:
        pass
    files = [path.stat().st_size for path in reference.rglob("*") if path.is_file()]
    most = disks.used(reference) if mounted else max(files)
    how = "tmpfs" if mounted else "RLIMIT_FSIZE"
    print(f"{how}, up to {most:,} bytes", flush=True)
    wrong, ended = 0, 0
    for number in range(sizes):
        share = (number + 1) / sizes
        size = int(most * share) if mounted else int(most**share) + number
        words, found = tried(folder, size, trainer)
        wrong += bool(found)
        ended += not words.endswith("had room")
        print(f"{size:,} bytes: {words}", *found, sep="\n  FAULT: ", flush=True)
    print(f"{sizes} sizes, {ended} of them too small; {wrong} with faults")
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
