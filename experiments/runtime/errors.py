"""Errors that are the user's to mend: the command line prints them as one line."""

import contextlib
import difflib
import errno
import os
import pathlib
import signal
import threading
from collections.abc import Callable, Collection, Iterator
from typing import Any


class UsageError(ValueError):
    """A setting is wrong; the message names it, what is allowed, and the way out.

    The exit code is 2.
    """

    code = 2


class SaveError(RuntimeError):
    """Something could not be written. The exit code is 1."""

    code = 1


FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)  # of an `OSError`


class Diverged(FloatingPointError):
    """Training cannot go on: its numbers are not finite. The exit code is 3."""

    code = 3


class PeerLost(RuntimeError):
    """Another process of the run has ended or does not answer. The exit code is 4."""

    code = 4


class Stopped(BaseException):
    """SIGTERM or Ctrl-C came; the command line prints what is kept, as one line.

    As a `KeyboardInterrupt` it is no `Exception`, so that what turns errors of others
    into its own (a reader of files, say) lets it through.

    Args:
      number: of the signal; the exit code is 128 more, as shells have it.
    """

    def __init__(self, number: int):
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.code = 128 + number
        self.kept = "nothing was written"


class Stop:
    """Whether SIGTERM or Ctrl-C has come, for loops that end at a place of their own.

    Fields:
      number: of the signal, or None.
    """

    number: int | None = None

    def check(self) -> None:
        """Raises `Stopped` if one has come."""
        if self.number is not None:
            raise Stopped(self.number)


@contextlib.contextmanager
def stopping() -> Iterator[None]:
    """Raises `Stopped` at SIGTERM and Ctrl-C inside; a second one ends the process."""

    def stop(number: int) -> None:
        raise Stopped(number)

    with _handling(stop):
        yield


@contextlib.contextmanager
def noting() -> Iterator[Stop]:
    """Notes SIGTERM and Ctrl-C inside; a second one ends the process."""
    stop = Stop()
    with _handling(lambda number: setattr(stop, "number", number)):
        yield stop


@contextlib.contextmanager
def _handling(stop_fn: Callable[[int], None]) -> Iterator[None]:
    """Calls `stop_fn` at the first signal inside.

    Elsewhere than in the main thread, where Python takes no signals, it does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = {number: signal.getsignal(number) for number in numbers}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def handle(number: int, frame: Any) -> None:
        del frame
        restore()
        stop_fn(number)

    for number in numbers:
        signal.signal(number, handle)
    try:
        yield
    finally:
        restore()


def check_name(where: str, name: str, known: Collection[str]) -> None:
    """Raises a `UsageError` with the nearest valid name if `name` is not in `known`."""
    if name in known:
        return
    raise UsageError(f"{where}: unknown name {name!r}; {nearest(name, known)}")


def nearest(name: str, known: Collection[str]) -> str:
    """Which known name may have been meant, and all of them, in words."""
    near = difflib.get_close_matches(str(name), list(known), n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"{hint}known: {', '.join(known) or 'none'}"


def check_bound(name: str, value: float, holds: bool, bound: str) -> None:
    """Raises a `UsageError` naming value and bound if `holds` is False."""
    if not holds:
        raise UsageError(f"{name}={value!r}: must be {bound}")


@contextlib.contextmanager
def in_directory(flag: str, path: str) -> Iterator[None]:
    """Turns an error of the file system about `path` into a `UsageError`.

    Or about what is in it, or what it is in. Those of a disk that is full are left.
    """
    try:
        yield
    except OSError as error:
        named = isinstance(error.filename, (str, os.PathLike))
        if error.errno in FULL or not named or not _nested(path, error.filename):
            raise
        raise UsageError(
            f"--{flag}={path}: {error.strerror}: {error.filename}; choose another "
            "directory, or mend this one"
        ) from error


def _nested(*paths: str | os.PathLike) -> bool:
    one, other = (pathlib.Path(path).absolute() for path in paths)
    return one.is_relative_to(other) or other.is_relative_to(one)


@contextlib.contextmanager
def naming(where: str) -> Iterator[None]:
    """Turns an error of values or types inside into a `UsageError` about `where`."""
    try:
        yield
    except UsageError:
        raise
    except (TypeError, ValueError, ArithmeticError, AssertionError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise UsageError(f"{where}: {reason}") from error
