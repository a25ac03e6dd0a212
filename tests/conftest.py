"""Strict settings for every test: no silent promotion, eight forced CPU devices.

Compiled programs are kept on disk for the session, or where JAX_COMPILATION_CACHE_DIR
says, the smallest too; workers and the commands that tests run share them. Compiling is
most of the time. `make test` has XLA optimize less than it does for users: LLVM at its
level 1, and no emitters of fusions. `make test-x64`, `make test-slow` and pytest called
as such leave all of that on (docs/testing.md).
"""

import atexit
import os
import shutil
import signal
import tempfile

import jax
import pytest

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_num_cpu_devices", 8)

if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    _compiled = tempfile.mkdtemp(prefix="diffusionflow-tests-")
    atexit.register(shutil.rmtree, _compiled, ignore_errors=True)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _compiled
jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    # as in a background job of a shell, and it would be so in the commands as well
    signal.signal(signal.SIGINT, signal.default_int_handler)

# files whose slow tests come first: .ci/run ends the slow tests where its time does
FIRST = (
    "notebooks",
    "what_happens",
    "resume",
    "cluster",
    "shards",
    "configs",
    "old_checkpoint",
    "comparing",
    "studying",
    "explore",
    "budget",
)


def pytest_collection_modifyitems(items):
    def place(item):
        name = item.path.stem.removeprefix("test_")
        first = item.get_closest_marker("slow") and name in FIRST
        return FIRST.index(name) if first else len(FIRST)

    items.sort(key=place)


@pytest.fixture(autouse=True, scope="module")
def forget_programs():
    """Programs of one file are kept in memory no longer than it is tested."""
    yield
    jax.clear_caches()


@pytest.fixture
def standard_promotion():
    """For tests that run an optimizer: optax does not keep to strict promotion."""
    with jax.numpy_dtype_promotion("standard"):
        yield
