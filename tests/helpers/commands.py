"""Running the commands as a person does: in a process of their own, on one device."""

import os
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[2]


def start(*arguments, **environment):
    """A running `python -m ...`, its output captured as text."""
    return subprocess.Popen(
        [sys.executable, "-m", *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu"} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(*arguments, **environment):
    """What a finished command left: (exit code, standard output, standard error)."""
    process = start(*arguments, **environment)
    output, error = process.communicate(timeout=300)
    return process.returncode, output, error


BEFORE = "importing|loading the (weights|data)|reading .*|initializing or .* the state"
ANNOUNCED = re.compile(
    rf"({BEFORE})( [.]{{3}}|: (\d+ h )?(\d+ min )?\d+ (s|min)( so far)?)"
)


def without_announcements(output):
    """Standard output without what `progress.announced` says before a refusal.

    Such lines come where something takes long, as anything may on a busy machine.
    """
    lines = output.splitlines(keepends=True)
    return "".join(line for line in lines if not ANNOUNCED.fullmatch(line.rstrip()))
