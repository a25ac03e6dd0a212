"""Users' functions by reference, such as callbacks: `module:function`."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from experiments.config import external
from experiments.config.parsing import parse
from experiments.runtime.errors import UsageError


def callbacks(texts: Sequence[str]) -> list[Callable[[int, Mapping[str, Any]], None]]:
    """Imports the functions `(step, row)` to call with every row of metrics.

    Args:
      texts: `module:function`, or `module:Class(arguments)` whose instances are called.

    Raises:
      UsageError: there is no such function, or it is not callable.
    """
    return [function("callbacks", text) for text in texts]


def function(where: str, text: str) -> Callable[..., Any]:
    """Imports the function `module:name`, or makes one by `module:Class(arguments)`.

    Args:
      where: config entry or flag, for errors.
      text: the reference; an instance is made of a class without brackets, too.

    Raises:
      UsageError: there is no such thing, or it is not callable.
    """
    plain = external.REFERENCE.fullmatch(text.strip())
    if plain is None:
        found = parse(where, text, {})
    else:
        found = external.resolve(where, *plain.groups())
        found = found() if isinstance(found, type) else found
    if not callable(found):
        raise UsageError(f"{where}: {text} gives {found!r}: must be callable")
    return found
