"""The compiled programs that runs of the tests share, on disk.

JAX's own limit of size (`jax_compilation_cache_max_size`) reads the time stamps of all
entries under one lock for every entry that is written: minutes for the 20,000 small
programs of the tests. `tidy` does it once, before the first test.
"""

import os
import pathlib

import jaxlib
from jax._src import compilation_cache

LIMIT = 2 * 2**30  # bytes
SUFFIX = "-cache"


def default():
    """The directory, where JAX_COMPILATION_CACHE_DIR names no other."""
    home = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    name = f"tests-jaxlib{jaxlib.__version__}"
    return pathlib.Path(home) / "diffusionflow" / name


def tidy(directory, limit=LIMIT):
    """Removes entries that were cut off, then the least recently read above `limit`."""
    stamp = directory / "tidied"
    before = stamp.stat().st_mtime if stamp.exists() else 0.0
    directory.mkdir(parents=True, exist_ok=True)
    stamp.touch()
    entries = []
    for path in directory.glob(f"*{SUFFIX}"):
        found = path.stat()
        if found.st_mtime >= before and not complete(path):
            path.unlink(missing_ok=True)
        else:
            entries.append((max(found.st_atime, found.st_mtime), found.st_size, path))
    total = sum(size for _, size, _ in entries)
    for _, size, path in sorted(entries):
        if total <= limit:
            break
        path.unlink(missing_ok=True)
        total -= size


def complete(path):
    """Whether a process was not killed while it wrote the entry."""
    try:
        compilation_cache.decompress_executable(path.read_bytes())
    except Exception:  # of whichever library compresses
        return False
    return True
