"""From text and config sections to calls of registered constructors."""

import ast
import inspect
import itertools
from collections.abc import Callable, Mapping
from typing import Any

from experiments.config import schema
from experiments.runtime.errors import UsageError, check_name, naming

Registry = Mapping[str, Callable[..., Any]]


def from_section(
    where: str, section: Mapping[str, Any], registry: Registry, **known: Any
) -> Any:
    """Calls the entry named `section["name"]` with the rest of the section.

    Args:
      where: name of the section, for errors.
      section: `name` and arguments, as `schema.typed` by the parameters' annotations.
      registry: names to callables.
      **known: arguments that are passed to callables that take them.

    Raises:
      UsageError: the name or an argument is unknown, or one of another type.
    """
    check_name(f"{where}.name", section["name"], registry)
    arguments = {key: _frozen(section[key]) for key in section if key != "name"}
    parameters = inspect.signature(registry[section["name"]]).parameters
    for key in arguments.keys() & parameters.keys():
        if (wanted := parameters[key].annotation) in schema.WORDS:
            arguments[key] = schema.typed(f"{where}.{key}", arguments[key], wanted)
    return _call(where, section["name"], registry, [], arguments, known)


def parse(
    where: str,
    text: str,
    registry: Registry,
    *,
    parts: Mapping[str, Registry] | None = None,
    **known: Any,
) -> Any:
    """The object that a call string describes; nothing is evaluated.

    Args:
      where: config key, for errors.
      text: `name`, `name(key=literal)` or `name(other_name(...))`.
      registry: names to callables.
      parts: registries of names that are arguments, by the name of the parameter; for
        others it is the registry of what they are arguments of.
      **known: arguments that are passed to callables that take them.

    Raises:
      UsageError: the text is no call string, or a name or an argument is unknown.
    """
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except SyntaxError:
        tree = None
    if not isinstance(tree, (ast.Name, ast.Call)):
        raise UsageError(
            f"{where}={text!r}: must be a name, with arguments in brackets if any, "
            f"such as {next(iter(registry))!r}; known: {', '.join(registry)}"
        )
    return _evaluate(where, tree, registry, parts or {}, known)


def _evaluate(
    where: str,
    node: ast.expr,
    registry: Registry,
    parts: Mapping[str, Registry],
    known: Mapping[str, Any],
) -> Any:
    """A name or call from the registry, or a literal."""
    if isinstance(node, ast.Name):
        node = ast.Call(func=node, args=[], keywords=[])
    if not isinstance(node, ast.Call):
        try:
            return ast.literal_eval(node)
        except ValueError:
            raise UsageError(
                f"{where}: {ast.unparse(node)!r} is no number, string, bool, None or "
                "tuple of them"
            ) from None
    name = ast.unparse(node.func)
    check_name(where, name, registry)
    if any(item.arg is None for item in node.keywords):
        raise UsageError(
            f"{where}: {ast.unparse(node)}: write the arguments without **"
        )

    def argument(key: str | None, item: ast.expr) -> Any:
        return _evaluate(where, item, parts.get(key, registry), parts, known)

    order = inspect.signature(registry[name]).parameters
    positional = [
        argument(key, item)
        for key, item in itertools.zip_longest(list(order)[: len(node.args)], node.args)
    ]
    keywords = {item.arg: argument(item.arg, item.value) for item in node.keywords}
    return _call(where, name, registry, positional, keywords, known)


def _call(
    where: str,
    name: str,
    registry: Registry,
    positional: list[Any],
    keywords: Mapping[str, Any],
    known: Mapping[str, Any],
) -> Any:
    """Calls `registry[name]`, with errors that name the config key."""
    parameters = inspect.signature(registry[name]).parameters
    offered = [key for key in parameters if key not in {"parent", "name", *known}]
    for key in keywords:
        check_name(f"argument of {where} {name!r}", key, offered)
    filled = {key: value for key, value in known.items() if key in parameters}
    with naming(f"{where}: {name}"):
        return registry[name](*positional, **keywords, **filled)


def _frozen(value: Any) -> Any:
    """Lists, and what JSON made of tuples, as tuples."""
    if isinstance(value, (list, tuple)):
        return tuple(_frozen(item) for item in value)
    return value
