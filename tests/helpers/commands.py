"""Running the commands as a person does: in a process of their own, on one device."""

import os
import pathlib
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


def without_importing(output):
    """Standard output without the lines that a busy machine adds while it imports."""
    lines = output.splitlines(keepends=True)
    return "".join(line for line in lines if not line.startswith("importing"))
