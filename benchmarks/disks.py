"""Small file systems of their own, where mounting them is permitted."""

import contextlib
import pathlib
import subprocess
from collections.abc import Iterator

PAGE = 4_096  # bytes


@contextlib.contextmanager
def disk(path: pathlib.Path, size: int) -> Iterator[bool]:
    """Makes a directory and mounts a tmpfs on it; gives whether that is permitted.

    Args:
      path: of the directory, which must not be there.
      size: bytes.
    """
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path)]
    mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(path)], check=True)


def resize(path: pathlib.Path, size: int) -> None:
    """Gives a mounted disk another size in bytes."""
    subprocess.run(["mount", "-o", f"remount,size={size}", str(path)], check=True)


def used(path: pathlib.Path) -> int:
    """Bytes of all files below a path, in whole pages."""
    sizes = (each.stat().st_size for each in path.rglob("*") if each.is_file())
    return sum(-(-size // PAGE) * PAGE for size in sizes)
