"""Errors that are the user's to mend: the command line prints them as one line."""

import contextlib
import difflib
from collections.abc import Collection, Iterator


class UsageError(ValueError):
    """A setting is wrong; the message names it, what is allowed, and the way out."""


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
def naming(where: str) -> Iterator[None]:
    """Turns an error of values or types inside into a `UsageError` about `where`."""
    try:
        yield
    except UsageError:
        raise
    except (TypeError, ValueError, ArithmeticError, AssertionError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise UsageError(f"{where}: {reason}") from error
