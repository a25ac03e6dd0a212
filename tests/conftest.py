"""Strict settings for every test: no silent promotion, eight forced CPU devices.

Compiled programs are kept on disk, the smallest too, for workers, for the commands that
tests run and for the next run of the tests: compiling is most of the time. `make test`,
`test-ci` and `test-slow` have XLA optimize less than it does for users: LLVM at its
level 1, and no emitters of fusions. The other targets and pytest called as such leave
all of that on (docs/testing.md).
"""

import gc
import os
import pathlib
import resource
import signal
import sys

import jax
import pytest

from tests.helpers import compilation_cache, lowering

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_num_cpu_devices", 8)

if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(compilation_cache.default())
    compilation_cache.tidy(compilation_cache.default())
jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)

lowering.share_contexts()

# traced programs are millions of live objects: Python's collector walks them all, 12 %
# of the tests' time at its default thresholds
gc.set_threshold(100_000, 50, 100)

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    # as in a background job of a shell, and it would be so in the commands as well
    signal.signal(signal.SIGINT, signal.default_int_handler)

# files whose slow tests take longest: they come first, so that workers end together
FIRST = (
    "notebooks",
    "what_happens",
    "resume",
    "cluster",
    "shards",
    "shipped_configs",
    "old_checkpoint",
    "compare_runs",
    "run_study",
    "explorables",
    "budget",
)


def shard(text):
    """`(i, n)` of `i/n`."""
    number, _, count = text.partition("/")
    if not (
        number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)
    ):
        raise pytest.UsageError(f"--shard={text}: must be i/n with 1 <= i <= n")
    return int(number), int(count)


def pytest_addoption(parser):
    parser.addoption(
        "--shard", default="1/1", help="run part i of n of the tests that are selected"
    )


@pytest.hookimpl(trylast=True)  # when -m and -k have chosen
def pytest_collection_modifyitems(config, items):
    number, count = shard(config.getoption("shard"))
    chosen = items[number - 1 :: count]
    if count > 1:
        kept = set(chosen)
        config.hook.pytest_deselected(
            items=[item for item in items if item not in kept]
        )

    def place(item):
        name = item.path.stem.removeprefix("test_")
        first = item.get_closest_marker("slow") and name in FIRST
        return FIRST.index(name) if first else len(FIRST)

    items[:] = sorted(chosen, key=place)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session, exitstatus):
    """A file without tests of a mark is no failure of that mark's target."""
    nothing = exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED
    files = [pathlib.Path(each.partition("::")[0]) for each in session.config.args]
    there = all(file.exists() for file in files)
    if nothing and there and session.config.option.markexpr:
        session.exitstatus = pytest.ExitCode.OK


MOST_MEMORY = 5 * 2**30
# a compiled program takes some; of a process that asks for more than 65,530, Linux's
# default, little is left but "worker crashed"
MOST_MAPPINGS = 25_000


def resident_bytes():
    """Returns the process's memory in bytes; where unknown, its peak."""
    statm = pathlib.Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * resource.getpagesize()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def mappings():
    """Returns how many mappings of memory the process has; 0 where unknown."""
    maps = pathlib.Path("/proc/self/maps")
    return maps.read_bytes().count(b"\n") if maps.exists() else 0


@pytest.fixture(autouse=True, scope="module")
def forget_programs():
    """Frees the compiled programs of earlier files before their room runs out."""
    yield
    if resident_bytes() > MOST_MEMORY or mappings() > MOST_MAPPINGS:
        jax.clear_caches()
        gc.collect()


@pytest.fixture
def standard_promotion():
    """For tests that run an optimizer: optax does not keep to strict promotion."""
    with jax.numpy_dtype_promotion("standard"):
        yield
