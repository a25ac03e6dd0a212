"""Freed arrays are kept for the next step, where nobody set the allocator himself."""

import importlib.metadata
import os
import platform
import subprocess
import sys

import pytest

PAGES = 2**26 // os.sysconf("SC_PAGE_SIZE")  # of the array
# in a thread, as XLA allocates; without the large pages that NumPy asks for
PROGRAM = """
import resource, sys, threading
import numpy as np
from experiments.runtime import allocator

if sys.argv[1] == "kept":
    print(allocator.keep_freed_memory())
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
    platform.libc_ver()[0] != "glibc"
    or bool(importlib.metadata.entry_points(group="jax_plugins")),
    reason="for CPUs under Linux with glibc",
)


def run(argument, **environment):
    """What the program prints, by line."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")}
    environment |= {"NUMPY_MADVISE_HUGEPAGE": "0"}
    command = [sys.executable, "-c", PROGRAM, argument]
    return subprocess.run(
        command, env=inherited | environment, capture_output=True, text=True, check=True
    ).stdout.split()


def test_pages_are_given_by_the_system_once():
    done, first, *later = run("kept")
    assert done == "True"
    assert int(first) > 0.9 * PAGES
    assert max(map(int, later)) < PAGES / 100


def test_without_it_they_are_given_each_time():
    assert min(map(int, run("as always"))) > 0.9 * PAGES


@pytest.mark.parametrize(
    ("name", "value"),
    [("MALLOC_ARENA_MAX", "4"), ("GLIBC_TUNABLES", "glibc.malloc.arena_max=4")],
)
def test_what_the_environment_says_is_left(name, value):
    assert run("kept", **{name: value})[0] == "False"
