"""Kills a run at random moments until it is done; compares it with a run left alone.

    python benchmarks/kill_storm.py --kills=200

A small run on points in the plane, which saves often, averages of two widths among it.
Each life is a process of its own (forked after the imports, before JAX has started) and
ends by SIGKILL, at a moment by lot: anywhere in its start (as long as the last one
took), in its first steps (for an eighth of that time), in the first 0.1 s of writing a
checkpoint or an average, of an evaluation, or of drawing a picture; one life in ten
compiles again. A run that is done before all kills are spent is followed by another.
Parameters, optimizer, averages, the one reconstructed from those that were stored,
`metrics.jsonl` and the pictures must be those of the run left alone, bit for bit, and
nothing may have been corrupted; else, or with fewer kills than asked for, the exit code
is 1.

Where mounting is permitted a run has a tmpfs of its own, and one life in three has room
for a part of a checkpoint only: it is killed at those moments too, or ends by itself
with an error before, after which there is room again.
"""

import argparse
import collections
import hashlib
import mmap
import os
import pathlib
import random
import signal
import struct
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import jax  # noqa: E402
import numpy as np  # noqa: E402
from ml_collections import ConfigDict  # noqa: E402

from benchmarks import disks  # noqa: E402
from configs import toy2d  # noqa: E402
from experiments.checkpointing import manager, posthoc_ema, step_directories  # noqa: E402
from experiments.training import loop, resume  # noqa: E402
from experiments.training.trainer import Trainer  # noqa: E402

OVERRIDES = {
    "batch_size": 16,
    "data.size": 330,
    "network.features": 16,
    "network.num_blocks": 1,
    "network.dropout": 0.1,
    "optimizer.warmup_steps": 5,
    "log.every": 7,
    "ema.sigma_rel": (0.1, 0.2),
    "ema.store_every": 4,
    "eval.every": 10,
    "eval.draws": 8,
    "sampler.num_steps": 2,
    "samples.every": 10,
    "samples.per_class": 8,
    "checkpoint.every": 2,
}
PHASES = ("starting", "restoring", "compiling", "stepping", "evaluating", "drawing")
MOMENTS = ("start", "steps", "saving", "evaluating", "drawing")
PARTS = ("checkpoints", posthoc_ema.DIRECTORY)
ROOM = 2**26  # bytes


class LifeError(RuntimeError):
    """Raised if a process has failed."""


class Board:
    """Shared record of a process: its phase and its step, read after its death."""

    def __init__(self):
        self._memory = mmap.mmap(-1, 16)

    def phase(self, name: str) -> None:
        self._memory[:8] = struct.pack("q", PHASES.index(name))

    def step(self, number: int) -> None:
        self._memory[8:] = struct.pack("q", number)

    def read(self) -> tuple[str, int]:
        phase, step = struct.unpack("qq", self._memory[:])
        return PHASES[phase], step


def watched(board: Board) -> type[Trainer]:
    """Makes a trainer that writes its phases on the board."""

    def during(phase: str, function: Any) -> Any:
        def call(*args: Any, **settings: Any) -> Any:
            board.phase(phase)
            result = function(*args, **settings)
            board.phase("stepping")
            return result

        return call

    class Watched(Trainer):
        def __init__(self, *given: Any):
            super().__init__(*given)
            first = during("compiling", self.step_fn)
            calls = iter([first])
            compiled = self.step_fn
            self.step_fn = lambda *args: next(calls, compiled)(*args)
            self.evaluate = during("evaluating", self.evaluate)
            self.sample_fn = during("drawing", self.sample_fn)

    return Watched


def digest(tree: Any) -> str:
    """Hashes every bit of a pytree of arrays."""
    total = hashlib.sha256()
    for leaf in jax.tree.leaves(tree):
        total.update(np.asarray(leaf).tobytes())
    return total.hexdigest()


def tiny_config(num_steps: int) -> ConfigDict:
    """The config of the runs."""
    config = toy2d.get_config()
    config.update_from_flattened_dict(OVERRIDES | {"num_steps": num_steps})
    return config


def live(workdir: pathlib.Path, num_steps: int, cache: str, board: Board) -> None:
    """Runs a process to its end; prints the digest of what it leaves."""
    config = tiny_config(num_steps)
    jax.config.update("jax_compilation_cache_dir", cache)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    loop.Trainer = watched(board)
    begin = resume.begin

    def restoring(*args: Any) -> Any:
        board.phase("restoring")
        return begin(*args)

    resume.begin = restoring
    state = loop.train_and_evaluate(
        config, workdir, hook=lambda number, *unused: board.step(number)
    )
    target = Trainer(config).abstract_state.params
    with manager.Checkpoints(workdir, read_only=True) as saved:
        found = saved.identity(num_steps)
    average = posthoc_ema.reconstruct(
        workdir, 0.15, step=num_steps, found=found, target=target
    )
    digests = map(digest, (state.params, state, average.params))
    (workdir / "digest.txt").write_text(" ".join(digests) + "\n")


def born(
    workdir: pathlib.Path,
    num_steps: int,
    cache: str,
    board: Board,
    folder: pathlib.Path,
) -> int:
    """Forks a process, its output in `folder`, which is never full; its number."""
    board.phase("starting")
    board.step(0)
    child = os.fork()
    if child:
        return child
    try:
        path = folder / f"{workdir.name}.log"
        log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        live(workdir, num_steps, cache, board)
        os._exit(0)
    except BaseException:
        import traceback

        traceback.print_exc()
        os._exit(1)


def ended(child: int) -> bool:
    """Returns whether a process has ended by itself.

    Raises:
      LifeError: it failed.
    """
    done, status = os.waitpid(child, os.WNOHANG)
    if done and status:
        raise LifeError("a life failed: see the .log of the run")
    return bool(done)


def lives_until(child: int, condition: Callable[[], bool]) -> bool:
    """Waits until a condition holds; False if the process ends before."""
    while not condition():
        if ended(child):
            return False
        time.sleep(0.0005)
    return True


def passed(seconds: float) -> Callable[[], bool]:
    """Makes a condition: whether a time from now on is over."""
    end = time.monotonic() + seconds
    return lambda: time.monotonic() > end


def kill(child: int) -> bool:
    """Kills a process; False if it ended at that very moment."""
    os.kill(child, signal.SIGKILL)
    return os.waitpid(child, 0)[1] == signal.SIGKILL


def stepping(board: Board) -> Callable[[], bool]:
    """Returns whether a process has made a step."""
    return lambda: board.read()[1] > 0


def unfinished(workdir: pathlib.Path) -> list[str]:
    """Lists directories of checkpoints and averages being written or removed."""
    paths = (path for part in PARTS for path in (workdir / part).glob("*"))
    return [path.name for path in paths if path.name.endswith(step_directories.SUFFIX)]


def reaching(moment: str, workdir: pathlib.Path, board: Board) -> Callable[[], bool]:
    """Makes a condition: where a process is to be killed, or a time from there on."""
    if moment == "saving":
        return lambda: bool(unfinished(workdir))
    return lambda: moment not in PHASES or board.read()[0] == moment


def where(workdir: pathlib.Path, board: Board) -> tuple[str, bool, int]:
    """Reports the phase of a kill, whether it fell while saving, and the steps lost."""
    phase, step = board.read()
    names = (path.name for path in (workdir / "checkpoints").glob("*"))
    saved = [int(name) for name in names if name.isdecimal()]
    lost = step - max(saved, default=0) if step else 0
    return phase, bool(unfinished(workdir)), lost


def undisturbed(
    folder: pathlib.Path, num_steps: int, cache: str
) -> tuple[pathlib.Path, float]:
    """Runs a run without kills; returns it and the seconds to its first step."""
    workdir, board = folder / "undisturbed", Board()
    workdir.mkdir()
    child = born(workdir, num_steps, cache, board, folder)
    begin = time.monotonic()
    lives_until(child, stepping(board))
    seconds = time.monotonic() - begin
    lives_until(child, lambda: False)
    return workdir, seconds


def differences(run: pathlib.Path, reference: pathlib.Path) -> list[str]:
    """Lists what of a run is not as it should be."""
    pictures = sorted((reference / "samples").glob("*.png"))
    names = ["digest.txt", "metrics.jsonl", *(f"samples/{p.name}" for p in pictures)]
    differing = [
        name
        for name in names
        if (run / name).read_bytes() != (reference / name).read_bytes()
    ]
    quarantined = [
        path.name for part in PARTS for path in (run / part).glob("corrupted-*")
    ]
    return differing + quarantined


class Storm:
    """Kills of the lives of runs.

    Args:
      folder: of the runs and of compiled programs.
      num_steps: of a run.
      seed: of all lots.

    Fields:
      fell: phases in which kills fell.
      saving: how many of them with a checkpoint or an average half written, which is
        done while training goes on.
      full: how many of them on a full disk.
      ended: lives that a full disk ended.
      lost: steps that each kill cost.
    """

    def __init__(self, folder: pathlib.Path, num_steps: int, seed: int):
        self.rng, self.board = random.Random(seed), Board()
        self.folder, self.num_steps = folder, num_steps
        self.cache = str(folder / "compiled")
        self.reference, self.begin = undisturbed(folder, num_steps, self.cache)
        self.fell: collections.Counter = collections.Counter()
        self.saving, self.full, self.ended, self.lost = 0, 0, 0, []

    def life(self, workdir: pathlib.Path, disk: pathlib.Path | None) -> bool:
        """Begins a process and kills it; returns whether it came to the run's end.

        Args:
          workdir: of the run.
          disk: where it is mounted; None where it has no disk of its own.
        """
        rng = self.rng
        full = disk is not None and rng.random() < 1 / 3
        if full:
            room = disks.used(disk) + rng.randrange(disks.PAGE, 60 * disks.PAGE)
            disks.resize(disk, room)
        cache = "" if rng.random() < 0.1 else self.cache
        child = born(workdir, self.num_steps, cache, self.board, self.folder)
        try:
            over = self._killed(child, workdir)
        except LifeError:
            if not full:
                raise
            self.ended += 1
            over = False
        else:
            if not over:
                self.full += full
        if full:
            disks.resize(disk, ROOM)
        return over

    def _killed(self, child: int, workdir: pathlib.Path) -> bool:
        """Kills a process at a moment by lot; True if it ended before."""
        moment, born_at = self.rng.choice(MOMENTS), time.monotonic()
        if moment != "start":
            if not lives_until(child, stepping(self.board)):
                return True
            self.begin = time.monotonic() - born_at
        span = {"start": self.begin, "steps": self.begin / 8}.get(moment, 0.1)
        for condition in (
            reaching(moment, workdir, self.board),
            passed(self.rng.uniform(0, span)),
        ):
            if not lives_until(child, condition):
                return True
        if not kill(child):
            return True
        phase, saving, steps = where(workdir, self.board)
        self.fell[phase] += 1
        self.saving += saving
        self.lost.append(steps)
        return False

    def run(self, workdir: pathlib.Path, done: Callable[[], bool]) -> list[str]:
        """Kills a run until it is done, or all are; returns what of it is wrong."""
        with disks.disk(workdir.parent / f"{workdir.name}.disk", ROOM) as mounted:
            disk = workdir.parent / f"{workdir.name}.disk" if mounted else None
            place = disk / workdir.name if mounted else workdir
            place.mkdir()
            while not done():
                if self.life(place, disk):
                    break
            else:
                args = self.num_steps, self.cache, self.board, self.folder
                child = born(place, *args)
                lives_until(child, lambda: False)
            found = differences(place, self.reference)
            return [f"{workdir.name}/{name}" for name in found]


def storm(
    folder: pathlib.Path, kills: int, minutes: float, num_steps: int, seed: int
) -> int:
    """Runs and kills all processes, prints the result, returns the exit code."""
    all_lives = Storm(folder, num_steps, seed)
    print(f"left alone: first step after {all_lives.begin:.1f} s", flush=True)
    fell, runs, wrong = all_lives.fell, 0, []
    started = time.monotonic()
    spent = lambda: (time.monotonic() - started) / 60
    done = lambda: fell.total() >= kills or spent() > minutes
    while not done():
        runs += 1
        wrong += all_lives.run(folder / f"killed{runs}", done)
        print(f"{fell.total()} kills", flush=True)
    parts = ", ".join(f"{count} {phase}" for phase, count in fell.most_common())
    total = f"{fell.total()} kills in {spent():.1f} min"
    print(f"{total}, over {runs} runs of {num_steps} steps")
    print(f"they fell while {parts}")
    print(f"with a checkpoint or an average half written: {all_lives.saving}")
    print(f"on a full disk: {all_lives.full}, and {all_lives.ended} lives it ended")
    most = max(all_lives.lost, default=0)
    again = sum(all_lives.lost)
    print(f"steps to be made again: {again} in all, {most} after one kill")
    print(f"different: {', '.join(wrong)}" if wrong else "no bit is different")
    return int(bool(wrong) or fell.total() < kills)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--minutes", type=float, default=60, help="no kills after them")
    parser.add_argument("--num_steps", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kill-storm-") as folder:
        sys.exit(
            storm(
                pathlib.Path(folder),
                arguments.kills,
                arguments.minutes,
                arguments.num_steps,
                arguments.seed,
            )
        )


if __name__ == "__main__":
    main()
