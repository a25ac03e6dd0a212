"""Locks: files that one process at a time holds, released when it ends, however."""

import contextlib
import fcntl
import pathlib


def held(stack: contextlib.ExitStack, path: pathlib.Path) -> bool:
    """Takes a lock until `stack` is left.

    Args:
      stack: whoever holds it.
      path: of the lock, in a directory that exists; the file stays and means nothing.

    Returns:
      False where another process holds it.
    """
    file = stack.enter_context(path.open("w"))
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
