"""Freed arrays are kept for the next step, unless the environment says otherwise.

With one device by the main thread, which runs its programs, with several by others too.
"""

import os
import platform
import subprocess
import sys

import pytest

PAGES = 2**26 // os.sysconf("SC_PAGE_SIZE")  # of the array
# large pages of the system would be counted as one
PROGRAM = """
import ctypes, resource, sys, threading
import numpy as np
from experiments.runtime import allocator

PR_SET_THP_DISABLE = 41
ctypes.CDLL(None).prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0)
devices = int(sys.argv[1])  # 0: memory is left to glibc
print(devices > 0 and allocator.keep_freed_memory(devices))
count = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def work():
    for _ in range(3):
        before = count()
        np.empty(2**26, np.uint8).fill(1)
        print(count() - before)
if devices == 1:
    work()
else:
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
"""

pytestmark = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="for Linux with glibc"
)


def run(devices, **environment):
    """What the program prints, by line."""
    known = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")}
    known.pop("GLIBC_TUNABLES", None)
    command = [sys.executable, "-c", PROGRAM, str(devices)]
    return subprocess.run(
        command, env=known | environment, capture_output=True, text=True, check=True
    ).stdout.split()


@pytest.mark.parametrize("devices", [1, 2])
def test_pages_are_given_by_the_system_once(devices):
    done, first, *later = run(devices)
    if done == "False":
        pytest.skip("an accelerator is here, or a glibc that takes no such threshold")
    assert int(first) > 0.9 * PAGES
    assert max(map(int, later)) < PAGES / 100


def test_without_it_they_are_given_each_time():
    assert min(map(int, run(0)[1:])) > 0.9 * PAGES


@pytest.mark.parametrize(
    ("name", "value"),
    [("MALLOC_ARENA_MAX", "4"), ("GLIBC_TUNABLES", "glibc.malloc.arena_max=4")],
)
def test_what_the_environment_says_is_left(name, value):
    assert run(1, **{name: value})[0] == "False"


# the temporaries of a program are 64 MiB
STEP = """
import resource, sys
import jax, jax.numpy as jnp
from experiments.runtime import allocator

done = allocator.keep_freed_memory()
x = jnp.ones(2**12)
add = lambda i, a: a + i
step = jax.jit(lambda x: jax.lax.fori_loop(0, 2, add, x[:, None] * x).sum())
count = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(3):
    step(x).block_until_ready()
before = count()
for _ in range(3):
    step(x).block_until_ready()
print(done, count() - before)
"""


def test_temporaries_of_a_program_are_kept():
    known = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")}
    known.pop("GLIBC_TUNABLES", None)
    result = subprocess.run(
        [sys.executable, "-c", STEP],
        env=known,
        capture_output=True,
        text=True,
        check=True,
    )
    done, faults = result.stdout.split()
    if done == "False":
        pytest.skip("an accelerator is here, or a glibc that takes no such threshold")
    assert int(faults) < 0.1 * PAGES
