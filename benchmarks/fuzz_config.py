"""Fuzzes configs, command lines, data files and checkpoints, in this process.

    python benchmarks/fuzz_config.py --configs=1000 --files=500 --seed=0

A case changes what is right by lot: an entry of a config, a word of a command line,
bytes of a config file, of a data file of every format that is read here, of a file of a
run. Nothing is trained: a command line is parsed and its config built and checked; a
data set is opened and its first examples are read; a checkpoint is chosen and restored,
the records of a run are read. Reported is, with the number that repeats it
(`--only=kind/number`),

- a traceback: any error that the command line would not print as a line;
- a hang: no end in 20 s;
- an acceptance of what is wrong: a value that no entry may have; numbers of a file
  other than those that were written to it, where the format has checksums; weights
  other than those that were saved.

The exit code is 1 where there is one.
"""

import argparse
import collections
import contextlib
import faulthandler
import io
import os
import pathlib
import random
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from absl import flags  # noqa: E402

from benchmarks import fuzz_files  # noqa: E402
from experiments import cli, train  # noqa: E402
from experiments.config import experiment, overrides, schema  # noqa: E402
from experiments.runtime import exit_codes  # noqa: E402

LIMIT = 20  # seconds
SHIPPED = (
    "digits",
    "digits_edm",
    "digits_sd3",
    "digits_vdm",
    "toy2d",
    "toy2d_meanflow",
)
WRONG: dict[Any, tuple[str, ...]] = {
    int: (
        "nan",
        "inf",
        "-inf",
        "1.5",
        "word",
        "1,2",
        "1e999",
        "",
        "None",
        "0x",
        "\x00",
        "1e9999999",
    ),
    float: ("nan", "inf", "-inf", "word", "1e999", "-1e999", "", "[1.0]", "1,2"),
    str: (
        "nosuch",
        "(",
        "ddim(",
        "[" * 5_000,
        "-" * 5_000 + "1",
        "a" * 100_000,
        "cosine(logsnr_min={[]:1})",
        "cosine(logsnr_min=nan)",
        "mse(kind=float('nan'))",
        "__import__('os').getcwd()",
        "nosuch:Name",
        "os:",
        ":",
        "\udce9",
        "\u202e",
        "lambda: 1",
        "cosine(*[1])",
        "cosine(**{'a': 1})",
    ),
}
POOL = (
    *sum(WRONG.values(), ()),
    "0",
    "-1",
    "1",
    "3",
    "1e-30",
    "1e30",
    "10" * 9,
    "1e400",
)
FREE_TEXT = ("distillation.teacher",)
OUTCOMES = {0: "accepted", 2: "refused"}
NAMED = [entry for entry in schema.TABLE if entry.type in WRONG]


class Hang(BaseException):
    """Raised in a case that does not end."""


class Accepted(AssertionError):
    """Raised where what is wrong was accepted."""


@contextlib.contextmanager
def limited() -> Iterator[None]:
    """Raises `Hang` in what takes longer than `LIMIT` seconds; ends what ignores it."""

    def late(*unused: Any) -> None:
        raise Hang(f"no end in {LIMIT} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, LIMIT)
    faulthandler.dump_traceback_later(3 * LIMIT, exit=True)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        faulthandler.cancel_dump_traceback_later()
        signal.signal(signal.SIGALRM, before)


def parsed(arguments: list[str]) -> int:
    """Parses a command line of `train` and checks its config; returns the exit code."""
    flags.FLAGS.unparse_flags()
    for name in list(flags.FLAGS):
        flags.FLAGS[name].unparse()
    try:
        with exit_codes.usage_errors():
            rest = cli._parse([train.__file__, *arguments], train.__name__)
            if len(rest) > 1:
                return 2
            train.ACCEPTED()
            config = train.CONFIG.value
            schema.check_complete(config)
            config.lock()
            experiment.from_config(config)
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def override(rng: random.Random, folder: pathlib.Path) -> str:
    """A value that an entry may not have, or one by lot."""
    del folder
    base = ["--workdir=x", f"--config={rng.choice(SHIPPED)}"]
    entry, wrong = rng.choice(NAMED), rng.random() < 0.6
    if wrong:
        text = rng.choice(WRONG[entry.type])
        if entry.bound and entry.type is not str and not entry.bound.holds(-1):
            text = rng.choice([text, "-1"])
        wrong = entry.name not in FREE_TEXT and not (entry.default == "" and not text)
    else:
        text = rng.choice([rng.choice(POOL), str(entry.default)])
        text = fuzz_files.mutated_text(rng, text)
    words = [*base, f"--config.{entry.name}={text}"]
    code = parsed(words)
    if code == 0 and wrong:
        raise Accepted(repr(words)[:200])
    return OUTCOMES[code]


def command(rng: random.Random, folder: pathlib.Path) -> str:
    """Words of a right command line, changed, left out, repeated or in disorder."""
    del folder
    name = rng.choice(SHIPPED)
    words = ["--workdir=x", f"--config={name}", "--accept_change=batch_size,data"]
    given = overrides.as_flags(overrides.load_config(name))
    words += rng.sample(given, min(len(given), rng.randint(1, 6)))
    for _ in range(rng.randint(1, 3)):
        place = rng.randrange(len(words))
        kind = rng.randrange(5)
        if kind == 0:
            words.pop(place)
        elif kind == 1:
            words.insert(place, rng.choice(words))
        elif kind == 2:
            words[place] = fuzz_files.mutated_text(rng, words[place])
        elif kind == 3:
            words[place : place + 1] = words[place].split("=", 1)
        else:
            words.insert(place, rng.choice(("--", "-", "--=", "=", "--config", *POOL)))
        words = words or ["-"]
    return OUTCOMES[parsed(words)]


def config_file(rng: random.Random, folder: pathlib.Path) -> str:
    """The text of a shipped config with bytes or lines changed, or what is no file."""
    path = folder / f"config{rng.randrange(10**9)}.py"
    if rng.random() < 0.1:
        fuzz_files.make_no_file(rng, path)
    elif rng.random() < 0.2:
        path.write_text(rng.choice(fuzz_files.CONFIG_FILES))
    else:
        source = (overrides.shipped() / f"{rng.choice(SHIPPED)}.py").read_bytes()
        content, _ = fuzz_files.mutated(rng, source)
        path.write_bytes(content)
    return OUTCOMES[parsed(["--workdir=x", f"--config={path}"])]


KINDS: dict[str, Callable[[random.Random, pathlib.Path], str]] = {
    "override": override,
    "command": command,
    "config_file": config_file,
    "data": fuzz_files.data_file,
    "run": fuzz_files.run_file,
}
CONFIGS, FILES = ("override", "command", "config_file"), ("data", "run")


def run(kind: str, number: int, seed: int, folder: pathlib.Path) -> tuple[str, str]:
    """Runs a case; returns how it ended, and its fault in words if it has one."""
    rng = random.Random(f"{seed}/{kind}/{number}")
    output, begin = io.StringIO(), time.monotonic()
    inside = folder / f"{kind}{number}"
    inside.mkdir()
    try:
        with (
            limited(),
            contextlib.redirect_stdout(output),
            contextlib.redirect_stderr(output),
        ):
            outcome = KINDS[kind](rng, inside)
    except (Hang, Exception) as error:
        shown = "".join(traceback.format_exception(error))[-1_500:]
        text = f"{kind}/{number}: {type(error).__name__} {str(error)[:200]}\n{shown}"
        return "a fault", text
    seconds = time.monotonic() - begin
    slow = f"{kind}/{number}: took {seconds:.1f} s" if seconds > LIMIT else ""
    return "a fault" if slow else outcome, slow


def fuzz(configs: int, files: int, seed: int, only: str | None) -> int:
    """Runs all cases, prints the faults and the counts; returns the exit code."""
    cases = [(CONFIGS[n % 3], n) for n in range(configs)]
    cases += [(FILES[n % 2], n) for n in range(files)]
    if only:
        kind, _, number = only.partition("/")
        cases = [(kind, int(number))]
    found: collections.Counter = collections.Counter()
    begin = time.monotonic()
    home = os.environ.get("XDG_CACHE_HOME")
    with tempfile.TemporaryDirectory(prefix="fuzz-") as name:
        os.environ["XDG_CACHE_HOME"] = name
        try:
            for number, (kind, case) in enumerate(cases):
                outcome, fault = run(kind, case, seed, pathlib.Path(name))
                found[kind, outcome] += 1
                if fault:
                    print(fault, flush=True)
                if number % 100 == 99:
                    print(f"{number + 1} of {len(cases)} cases", flush=True)
        finally:
            os.environ.pop("XDG_CACHE_HOME")
            if home:
                os.environ["XDG_CACHE_HOME"] = home
    seconds = time.monotonic() - begin
    print(f"{len(cases)} cases of seed {seed} in {seconds:.0f} s")
    for (kind, outcome), count in sorted(found.items()):
        print(f"{kind}: {count} {outcome}")
    faults = sum(count for (_, outcome), count in found.items() if outcome == "a fault")
    print(f"faults: {faults}")
    return int(bool(faults))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--configs", type=int, default=1_000)
    parser.add_argument("--files", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", help="one case, as kind/number")
    given = parser.parse_args()
    sys.exit(fuzz(given.configs, given.files, given.seed, given.only))


if __name__ == "__main__":
    main()
