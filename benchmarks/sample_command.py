"""Measures the command that samples over its network calls alone, part by part.

    python -m benchmarks.sample_command --num_samples=2048
    python -m benchmarks.sample_command --workdir=runs/digits --rounds=5

Each round is a process that runs the command, all of it: the first with an empty
directory of compiled programs, the others with what that one compiled. After every
batch of samples the process makes as many calls of the same network on as many samples
in a loop; their time is no part of the command's, which is printed as a multiple of
theirs. On a shared machine go by the CPU seconds. It is for one CPU device.

Without `--workdir` the network of `configs/digits.py` is trained for a few steps. Data
must be without condition vectors.
"""

import argparse
import functools
import json
import os
import pathlib
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any, NamedTuple

ROOT = pathlib.Path(__file__).resolve().parent.parent
STEPS = 20  # of the training
PARTS = ("start, imports", "weights", "compilation", "batches", "writing", "exit")
NETWORK = "network calls"


class Seconds(NamedTuple):
    """Seconds that something takes.

    Fields:
      elapsed: by the clock.
      cpu: of all threads.
    """

    elapsed: float
    cpu: float


def plus(*all_seconds: Seconds) -> Seconds:
    """Adds seconds."""
    return Seconds(*map(sum, zip(*all_seconds, strict=True)))


def since(end: Seconds, begin: Seconds) -> Seconds:
    """Subtracts what two clocks showed."""
    return Seconds(end.elapsed - begin.elapsed, end.cpu - begin.cpu)


def now() -> Seconds:
    """Reads the clock of all processes here, and the CPU seconds of this one."""
    return Seconds(time.perf_counter(), time.process_time())


def parse() -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--workdir", type=pathlib.Path, help="of a run; by default one is trained")
    add("--num_samples", type=int, default=2_048)
    add("--rounds", type=int, default=3, help="after the first, which compiles")
    add("--flags", default="", help="more flags of the command, by spaces")
    add("--json", type=pathlib.Path, help="also write every number here")
    # of the process that runs the command: the clock at its start, and where it answers
    add("--began", type=float, help=argparse.SUPPRESS)
    add("--answer", type=pathlib.Path, help=argparse.SUPPRESS)
    return parser.parse_args()


class Stopwatch:
    """Times the parts of a command, without the network calls in between.

    Args:
      began: the clock when the process was started.
    """

    def __init__(self, began: float):
        self.last = Seconds(began, 0.0)
        self.parts: list[tuple[str, Seconds]] = []
        self.network: list[Seconds] = []

    def end(self, part: str) -> None:
        """Ends a part that began where the last one ended."""
        here = now()
        self.parts.append((part, since(here, self.last)))
        self.last = here

    def call_network(self, run_fn: Callable[[], Any]) -> None:
        """Times the network calls of a batch."""
        if not self.network:
            run_fn()  # compiles
        begin = now()
        run_fn()
        self.last = now()
        self.network.append(since(self.last, begin))

    def totals(self) -> dict[str, Seconds]:
        """Sums by part; what the first batch takes beyond the others is compilation."""
        batches = [seconds for part, seconds in self.parts if part == "batches"]
        if len(batches) < 2:
            raise SystemExit(
                "--num_samples: of one batch compilation cannot be separated; ask for "
                "more samples"
            )
        usual = Seconds(*map(statistics.median, zip(*batches[1:], strict=True)))
        parts = [*self.parts, ("compilation", since(batches[0], usual))]
        parts.append(("batches", since(usual, batches[0])))
        sums = {name: plus(*(s for n, s in parts if n == name)) for name in PARTS[:-1]}
        return sums | {NETWORK: plus(*self.network)}


class TimedSampler:
    """A `sample_fn` that notes when its batches end, and calls the network after each.

    Args:
      sample_fn: of `compiled_sampler`.
      make_fn: makes what `make_network_fn` does, when it is first needed.
      watch: of the process.
    """

    def __init__(self, sample_fn: Any, make_fn: Callable[[], Any], watch: Stopwatch):
        self._sample_fn, self._watch = sample_fn, watch
        self._make_fn = functools.cache(make_fn)

    def __call__(
        self,
        params: Any,
        seed: int,
        given: Any,
        first: int = 0,
        advance: Callable[[int], Any] | None = None,
    ) -> Any:
        watch = self._watch
        watch.end("writing" if watch.network else "weights")

        def advanced(count: int) -> None:
            if advance is not None:
                advance(count)
            watch.end("batches")
            watch.call_network(lambda: self._make_fn()(params))

        return self._sample_fn(params, seed, given, first, advanced)


def make_network_fn(model: Any, section: Any, guidance: float) -> Any:
    """Makes `params -> array`: as many calls of the network as a batch makes."""
    import jax
    import jax.numpy as jnp

    from diffusionflow import predictions, samplers
    from experiments.config import build
    from experiments.runtime import sharding
    from experiments.sampling import compiled_sampler

    objective = model.objective
    width = compiled_sampler.cpu_width(model.event_shape)
    schedule = objective.schedule
    sampler, times = build.sampling(section, schedule)
    zero_fn = predictions.denoiser(
        lambda z, t: jnp.zeros_like(z), kind=objective.kind, schedule=schedule
    )
    z = jnp.ones((width, *model.event_shape))
    given = dict(sampler=sampler, schedule=schedule)
    calls = samplers.sample(jax.random.key(0), zero_fn, z, times, **given).nfe
    label = jnp.arange(width) % max(1, model.num_classes)

    def run(params: Any, z: jax.Array) -> jax.Array:
        denoise_fn = model.denoise_fn(params, label, guidance)
        call = lambda number, z: denoise_fn(z, (number + 1) / (calls + 1)).x
        return jax.lax.fori_loop(0, calls, call, z)

    program = jax.jit(run, compiler_options=sharding.compiler_options())
    return lambda params: jax.block_until_ready(program(params, z))


def run_command(arguments: list[str], began: float, answer: pathlib.Path) -> None:
    """Runs the command in this process, and writes what its parts took."""
    watch = Stopwatch(began)
    from experiments import cli, sample
    from experiments.runtime import startup

    def main() -> None:
        with startup.importing():  # as the command does
            from experiments.checkpointing import restore
            from experiments.sampling import compiled_sampler, sample_run

        del sample_run  # imported here, so that it counts as such
        load, make = restore.load, compiled_sampler.make_sample_fn

        def loaded(*given: Any) -> Any:
            watch.end("start, imports")
            return load(*given)

        def made(model: Any, section: Any, **settings: Any) -> TimedSampler:
            make_fn = lambda: make_network_fn(model, section, settings["guidance"])
            return TimedSampler(make(model, section, **settings), make_fn, watch)

        restore.load, compiled_sampler.make_sample_fn = loaded, made
        sample.main()
        watch.end("writing")
        answer.write_text(json.dumps([watch.totals(), watch.last]))

    sys.argv = ["sample", *arguments]
    cli.run(main)


def train(workdir: pathlib.Path) -> None:
    """Trains the digits network for a few steps."""
    command = [sys.executable, "-m", "experiments.train", "--config=configs/digits.py"]
    command += [f"--workdir={workdir}", f"--config.num_steps={STEPS}"]
    command += ["--config.optimizer.warmup_steps=2", "--config.eval.every=0"]
    command += ["--config.samples.every=0", f"--config.checkpoint.every={STEPS}"]
    subprocess.run(command, check=True, stdout=sys.stderr, cwd=ROOT)


def measure(args: argparse.Namespace, folder: pathlib.Path) -> dict[str, Seconds]:
    """Measures the parts of one run of the command, by name."""
    answer, out = folder / "answer.json", folder / "samples"
    for left in folder.glob("samples.*"):
        left.unlink()
    command = [sys.executable, "-m", "benchmarks.sample_command", f"--answer={answer}"]
    command += [f"--workdir={args.workdir}", f"--num_samples={args.num_samples}"]
    command += [f"--flags=--out={out} {args.flags}", f"--began={time.perf_counter()}"]
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(folder / "compiled")}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # a second command finds it
    before = cpu_of_children()
    subprocess.run(command, check=True, stdout=sys.stderr, env=environment, cwd=ROOT)
    ended = Seconds(time.perf_counter(), cpu_of_children() - before)
    parts, last = json.loads(answer.read_text())
    found = {name: Seconds(*both) for name, both in parts.items()}
    return found | {"exit": since(ended, Seconds(*last))}


def cpu_of_children() -> float:
    """Returns CPU seconds of the child processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def report(title: str, rounds: list[dict[str, Seconds]]) -> None:
    """Prints the medians over rounds, and each over that of the network calls."""
    middle = lambda values: Seconds(*map(statistics.median, zip(*values, strict=True)))
    print(f"\n{title}\n\n| part | seconds | of the calls | CPU | of the calls |")
    print("|---|---|---|---|---|")
    every = [each | {"in all": plus(*(each[p] for p in PARTS))} for each in rounds]
    for name in (*PARTS, "in all", NETWORK):
        seconds = middle([each[name] for each in every])
        shares = middle(
            [
                Seconds(
                    *(a / b for a, b in zip(each[name], each[NETWORK], strict=True))
                )
                for each in every
            ]
        )
        cells = f"{seconds.elapsed:.2f} | {shares.elapsed:.3f} | "
        cells += f"{seconds.cpu:.2f} | {shares.cpu:.3f}"
        print(f"| {name} | {cells} |", flush=True)


def main() -> None:
    args = parse()
    if args.answer:
        flags = [f"--workdir={args.workdir}", f"--num_samples={args.num_samples}"]
        run_command([*flags, *args.flags.split()], args.began, args.answer)
    if args.workdir is not None:
        args.workdir = args.workdir.resolve()
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        if args.workdir is None:
            args.workdir = folder / "run"
            train(args.workdir)
        rounds = [measure(args, folder)]
        report(f"{args.num_samples:,} samples, nothing compiled before", rounds)
        rounds += [measure(args, folder) for _ in range(args.rounds)]
    if args.rounds:
        report(f"again, the median of {args.rounds}", rounds[1:])
    if args.json:
        args.json.write_text(json.dumps(rounds, indent=1))


if __name__ == "__main__":
    main()
