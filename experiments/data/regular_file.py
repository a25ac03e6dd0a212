"""Files that can be read to an end."""

import os
import stat


def check_other(path: str | os.PathLike, test_path: str | os.PathLike) -> None:
    """Raises a ValueError where held-out examples would be those of training."""
    try:
        same = os.path.samefile(path, test_path)
    except OSError:  # which is said where it is opened
        return
    if same:
        raise ValueError(
            f"test_path={os.fspath(test_path)!r}: is path itself, and the held-out "
            "examples would be those of training; leave it out to hold some out"
        )


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
