"""Checks where a command writes a page or a picture, and marks what it wrote.

A command replaces only files that it wrote, which it knows by the mark in them.
"""

import pathlib
import stat
from collections.abc import Iterable

from experiments.runtime import files
from experiments.runtime.errors import UsageError

BEGINNING = 4096  # bytes of a file, in which its mark is


def mark(command: str) -> str:
    """Returns what a page or picture of a command says about itself near its start."""
    return f"diffusionflow {command} (its next run may replace this file)"


def check_file(flag: str, out: str, suffix: str, command: str) -> None:
    """Checks the path of one file, which the user gives; see `check`.

    Raises:
      UsageError: it has another suffix, is a folder, or is in none.
    """
    path = pathlib.Path(out)
    if path.suffix != suffix:
        raise UsageError(f"--{flag}={out!r}: must end in {suffix}")
    if path.is_dir():
        raise UsageError(f"--{flag}={out!r}: must be a file; name one in the directory")
    if not (folder := path.absolute().parent).is_dir():
        raise UsageError(
            f"--{flag}={out!r}: must be in a directory that exists, and {folder} is "
            "none; make it"
        )
    check(flag, [path], command)


def check(flag: str, paths: Iterable[pathlib.Path], command: str) -> None:
    """Checks before any work that files can be written and nobody's file is replaced.

    Args:
      flag: that says where they are.
      paths: of the files, in directories that exist.
      command: that writes them.

    Raises:
      UsageError: a file is there that the command has not written.
      OSError: a file cannot be written.
    """
    for path in paths:
        if not _replaceable(path, command):
            raise UsageError(
                f"--{flag}: {path} exists, was not written by this command, and would "
                f"be overwritten: move it away, or choose another --{flag}"
            )
        files.check_writable(path)


def _replaceable(path: pathlib.Path, command: str) -> bool:
    """Returns whether nothing is at a path, or a file with the command's mark."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return True
    if not stat.S_ISREG(mode):  # a pipe would wait for ever, a link would be lost
        return False
    with path.open("rb") as file:
        return mark(command).encode() in file.read(BEGINNING)
