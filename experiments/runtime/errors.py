"""Defines errors that the command line prints as one line, with an exit code."""

import contextlib
import difflib
import errno
import os
import pathlib
from collections.abc import Collection, Iterator
from typing import Any


class UsageError(ValueError):
    """Raised for a wrong setting: names it, what is allowed, and the way out.

    The exit code is 2.
    """

    code = 2


class SaveError(RuntimeError):
    """Raised if something could not be written. The exit code is 1."""

    code = 1


FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)  # of an `OSError`


# what `ast.parse` and `ast.literal_eval` raise
UNPARSABLE = (SyntaxError, ValueError, TypeError, MemoryError, RecursionError)


class Diverged(FloatingPointError):
    """Raised if training cannot go on with non-finite numbers. The exit code is 3."""

    code = 3


class PeerLost(RuntimeError):
    """Raised if another process ended or does not answer. The exit code is 4."""

    code = 4


LONG = 80  # characters of a value in a message
ELSEWHERE = {  # what other libraries call our samplers
    "dpmpp_2m": "dpm_solver",
    "dpmpp_2m_sde": "sde_dpm_solver",
    "dpmpp_2s": "dpm_solver_2s",
    "dpmpp_sde": "sde_dpm_solver",
    "dpmsolver++": "dpm_solver",
    "ancestral": "ddpm",
    "euler_ancestral": "ddpm",
    "euler_a": "ddpm",
    "plms": "adams_bashforth",
    "pndm": "adams_bashforth",
    "lms": "adams_bashforth",
}


def check_name(where: str, name: str, known: Collection[str]) -> None:
    """Raises a `UsageError` with the nearest valid name if `name` is not in `known`."""
    if name in known:
        return
    raise UsageError(f"{where}: unknown name {shown(name)}; {nearest(name, known)}")


def shown(value: Any) -> str:
    """Returns `repr` of a value on one line, the middle of a long one left out."""
    text = " ".join(repr(value).split())
    return text if len(text) <= LONG else f"{text[: LONG // 2]}...{text[-LONG // 4 :]}"


def nearest(name: str, known: Collection[str]) -> str:
    """Suggests which known name may have been meant, and lists them all."""
    near = [ELSEWHERE[name]] if ELSEWHERE.get(name) in known else []
    near += difflib.get_close_matches(str(name)[:LONG], list(known), n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"{hint}known: {', '.join(known) or 'none'}"


def require(name: str, value: Any, holds: bool, bound: str) -> None:
    """Raises a `UsageError` naming value and bound if `holds` is False."""
    if not holds:
        raise UsageError(f"{name}={shown(value)}: must be {bound}")


@contextlib.contextmanager
def reporting_path_errors(flag: str, path: str | None) -> Iterator[None]:
    """Re-raises file-system errors on `path`, its parents or its contents.

    They become a `UsageError`; disk-full errors propagate. So do all where the flag is
    not given, and `path` None.
    """
    try:
        yield
    except OSError as error:
        named = isinstance(error.filename, (str, os.PathLike))
        near = path is not None and named and _nested(path, error.filename)
        if error.errno in FULL or not near:
            raise
        raise UsageError(
            f"--{flag}={path}: {error.strerror}: {error.filename}; choose another "
            "directory, or fix this one"
        ) from error


def _nested(*paths: str | os.PathLike) -> bool:
    """Returns whether a path is in another, or is its `.npz` or temporary file."""
    one, other = (pathlib.Path(path).absolute() for path in paths)
    begins = other.name.removeprefix(".").startswith(f"{one.name}.")
    named_by = other.parent == one.parent and begins
    return one.is_relative_to(other) or other.is_relative_to(one) or named_by


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
