"""Locks: files that one process at a time holds, released when it ends, however."""

import contextlib
import fcntl
import pathlib
import sys


def held(stack: contextlib.ExitStack, path: pathlib.Path) -> bool:
    """Takes a lock until `stack` is left.

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
