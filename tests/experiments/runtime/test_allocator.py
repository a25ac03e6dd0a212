"""Freed arrays are kept for the next step, unless the environment says otherwise."""

import os
import platform
import subprocess
import sys

import pytest

PAGES = 2**26 // os.sysconf("SC_PAGE_SIZE")  # of the array
# in a thread, as XLA allocates; large pages of the system would be counted as one
PROGRAM = """
import ctypes, resource, sys, threading
import numpy as np
from experiments.runtime import allocator

PR_SET_THP_DISABLE = 41
ctypes.CDLL(None).prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0)
print(sys.argv[1] == "kept" and allocator.keep_freed_memory())
count = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def work():
    for _ in range(3):
        before = count()
        np.empty(2**26, np.uint8).fill(1)
        print(count() - before)
thread = threading.Thread(target=work)
thread.start()
thread.join()
"""

pytestmark = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="for Linux with glibc"
)


def run(argument, **environment):
    """What the program prints, by line."""
    known = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")}
    known.pop("GLIBC_TUNABLES", None)
    command = [sys.executable, "-c", PROGRAM, argument]
    return subprocess.run(
        command, env=known | environment, capture_output=True, text=True, check=True
    ).stdout.split()


def test_pages_are_given_by_the_system_once():
    done, first, *later = run("kept")
    if done == "False":
        pytest.skip("an accelerator is here, or a glibc that takes no such threshold")
    assert int(first) > 0.9 * PAGES
    assert max(map(int, later)) < PAGES / 100


def test_without_it_they_are_given_each_time():
    assert min(map(int, run("as always")[1:])) > 0.9 * PAGES


@pytest.mark.parametrize(
    ("name", "value"),
    [("MALLOC_ARENA_MAX", "4"), ("GLIBC_TUNABLES", "glibc.malloc.arena_max=4")],
)
def test_what_the_environment_says_is_left(name, value):
    assert run("kept", **{name: value})[0] == "False"
