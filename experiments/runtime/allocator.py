"""Makes the C library keep the memory that a training step frees, for the next step."""

import ctypes
import importlib.metadata
import importlib.util
import os
import platform

# of malloc.h
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
LARGEST = 2**30  # bytes of an array that is kept


def keep_freed_memory() -> bool:
    """Makes glibc keep freed arrays of up to 1 GiB; called before JAX's first array.

    XLA allocates the temporaries of a program at every call. By default glibc maps
    arrays above 32 MiB, and all of other threads above 64 MiB, from the system and
    gives them back when they are freed; the system then zeroes each page at every step.
    The price is memory: the holes between arrays are kept too.

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
    # other arenas hold 64 MiB at most, and XLA's threads would have them
    return bool(mallopt(_ARENA_MAX, 1))
