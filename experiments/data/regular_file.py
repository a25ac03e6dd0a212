"""Files that can be read to an end."""

import os
import stat


def check_regular(path: str | os.PathLike) -> None:
    """Raises a ValueError unless a path is a file with something in it.

    A pipe or a device would be waited for without an end.
    """
    try:
        found = os.stat(path)
    except OSError as error:
        dangling = os.path.islink(path) and isinstance(error, FileNotFoundError)
        reason = "a link to nothing" if dangling else error.strerror
        raise ValueError(f"{reason}") from error
    if stat.S_ISDIR(found.st_mode):
        raise ValueError("a folder, not a file")
    if not stat.S_ISREG(found.st_mode):
        raise ValueError("a pipe or device, not a file")
    if not found.st_size:
        raise ValueError("an empty file")
