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
    near = difflib.get_close_matches(str(name), list(known), n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}? " if near else ""
    listed = ", ".join(known) or "none"
    raise UsageError(f"{where}: unknown name {name!r}; {hint}known: {listed}")


def check_bound(name: str, value: float, holds: bool, bound: str) -> None:
    """Raises a `UsageError` naming value and bound if `holds` is False."""
    if not holds:
        raise UsageError(f"{name}={value!r}: must be {bound}")


@contextlib.contextmanager
def naming(where: str) -> Iterator[None]:
    """Turns a `ValueError` inside into a `UsageError` that begins with `where`."""
    try:
        yield
    except UsageError:
        raise
    except ValueError as error:
        raise UsageError(f"{where}: {error}") from error
