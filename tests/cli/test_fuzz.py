"""A short run of `benchmarks/fuzz_config.py`, with a seed of its own."""

import subprocess
import sys

import pytest

from tests.helpers import commands


@pytest.mark.slow
def test_no_fuzzed_config_or_file_is_a_fault():
    done = subprocess.run(
        [
            sys.executable,
            "benchmarks/fuzz_config.py",
            "--configs=150",
            "--files=80",
            "--seed=1",
        ],
        cwd=commands.ROOT,
        env=commands.os.environ | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("faults: 0\n")
    for outcome in ("override: ", "command: ", "config_file: ", "data: ", "run: "):
        assert f"{outcome}" in done.stdout, done.stdout
