"""Locks, writes atomically and formats files of a run."""

import contextlib
import fcntl
import json
import math
import os
import pathlib
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np


def acquire_lock(stack: contextlib.ExitStack, path: pathlib.Path) -> bool:
    """Takes a lock that one process at a time holds, until `stack` is left.

    It is released when the process ends, however it ends.

    Args:
      stack: whoever holds it.
      path: of the lock, in a directory that exists; the file stays and means nothing.

    Returns:
      False where another process holds it; True with a warning where the file system
      has no locks.
    """
    file = stack.enter_context(path.open("w"))
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        print(
            f"warning: {path.parent} is on a file system without locks "
            f"({error.strerror}): nothing keeps a second process from it",
            file=sys.stderr,
            flush=True,
        )
    return True


def plain(value: Any) -> Any:
    """Converts to JSON values: 9 digits (float32), None for non-finite numbers."""
    if isinstance(value, (bool, str)) or value is None:
        return value
    if isinstance(value, (list, tuple)) or np.ndim(value):
        return [plain(item) for item in value]
    if isinstance(value, int) or np.issubdtype(np.asarray(value).dtype, np.integer):
        return int(value)
    return float(f"{float(value):.9g}") if math.isfinite(value) else None


@contextlib.contextmanager
def atomic_write(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Gives a path to write to, which is renamed to `path` once it is on disk."""
    temporary = _temporary(path)
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def check_writable(path: pathlib.Path) -> None:
    """Raises now the `OSError` of a place or name that `atomic_write` cannot use."""
    temporary = _temporary(path)
    temporary.touch()
    temporary.unlink()


def _temporary(path: pathlib.Path) -> pathlib.Path:
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def sweep(folder: pathlib.Path) -> None:
    """Removes temporary files of `atomic_write` whose process here has ended."""
    for left in folder.glob(".*.tmp"):
        pid = left.suffixes[-2].removeprefix(".")
        if not pid.isdigit() or int(pid) == os.getpid() or not _runs(int(pid)):
            left.unlink(missing_ok=True)


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True


def parse_json(text: str | bytes) -> Any:
    """Parses JSON; raises a `ValueError` where that is not possible."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("JSON must not be nested so deeply") from error


def read_json(path: pathlib.Path) -> Any:
    """Reads a file of JSON.

    Raises:
      OSError: it cannot be read.
      ValueError: it is no JSON, or a pipe or device, which might never end.
    """
    check_regular(path)
    return parse_json(path.read_bytes())


def read_npz(path: pathlib.Path, *names: str) -> dict[str, np.ndarray]:
    """Reads arrays of an `.npz`: those of `names`, or all.

    Raises:
      ValueError: it is missing, no regular file, or corrupted.
    """
    check_regular(path)
    try:
        with np.load(path) as file:
            return {name: file[name] for name in names or file.files}
    except Exception as error:  # many types, of zipfile, zlib and numpy
        raise ValueError(f"{path}: {type(error).__name__}: {error}") from error


def check_regular(path: pathlib.Path) -> None:
    """Raises a `ValueError` where a path that exists is no regular file."""
    if path.exists() and not path.is_file():
        raise ValueError(f"{path} must be a regular file")


def write_json(path: pathlib.Path, value: Any) -> None:
    """Writes `value` as readable JSON."""
    path.write_text(json.dumps(value, indent=2) + "\n")
