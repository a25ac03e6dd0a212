"""Makes the C library keep the memory that a training step frees, for the next step."""

import ctypes
import importlib.metadata
import importlib.util
import os
import platform

import jax

# of malloc.h
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
LARGEST = 2**30  # bytes of an array that is kept


def keep_freed_memory(devices: int = 1, *, steps: bool = True) -> bool:
    """Makes glibc keep freed arrays of up to 1 GiB; called before JAX's first array.

    XLA allocates the temporaries of a program at every call. By default glibc maps
    arrays above 32 MiB, and all of other threads above 64 MiB, from the system and
    gives them back when they are freed; the system then zeroes each page at every step.
    The price is memory: the holes between arrays are kept too.

    The main thread has no such limit of 64 MiB. So the steps of a single device are run
    by the thread that calls them (JAX's synchronous dispatch), where a signal waits for
    the end of a step. Several devices run theirs in threads of their own, which then
    share the memory of the main one: they wait for each other, and compiling is slower.

    Args:
      devices: that the CPU is split into.
      steps: whether programs are short and called often, as in training. Otherwise the
        threads of XLA run them, and a signal is noticed in the middle of a program.

    Returns:
      Whether it was done: under Linux with a glibc that takes such a threshold, where
      JAX has no plugin of an accelerator, and unless the environment sets glibc's
      allocator by itself (`MALLOC_ARENA_MAX` and others, `GLIBC_TUNABLES`).
    """
    given = any(name.startswith("MALLOC_") for name in os.environ)
    given |= "malloc" in os.environ.get("GLIBC_TUNABLES", "")
    accelerated = bool(importlib.metadata.entry_points(group="jax_plugins"))
    accelerated |= importlib.util.find_spec("libtpu") is not None
    if given or accelerated or platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    if not mallopt(_MMAP_THRESHOLD, LARGEST):  # older ones take 32 MiB at most
        return False
    mallopt(_TRIM_THRESHOLD, 2**31 - 1)
    if devices > 1:
        return bool(mallopt(_ARENA_MAX, 1))
    if steps:
        jax.config.update("jax_cpu_enable_async_dispatch", False)
    return True
