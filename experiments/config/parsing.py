"""From text and config sections to calls of constructors.

A name is one of a registry, or `package.module:Name` of a user's own module.
"""

import ast
import inspect
import itertools
import re
import types
from collections.abc import Callable, Mapping
from typing import Any, get_args

from experiments.config import external, schema
from experiments.runtime.errors import (
    UNPARSABLE,
    UsageError,
    check_name,
    naming,
    shown,
)

Registry = Mapping[str, Callable[..., Any]]


def from_section(
    where: str,
    section: Mapping[str, Any],
    registry: Registry,
    *,
    adapt_fn: Callable[[Callable[..., Any]], Callable[..., Any]] = lambda fn: fn,
    **known: Any,
) -> Any:
    """Calls the entry named `section["name"]` with the rest of the section.

    Args:
      where: name of the section, for errors.
      section: `name`, which may be a call string, and arguments, as `schema.typed` by
        the parameters' annotations.
      registry: names to callables.
      adapt_fn: gives what is called in place of what is named.
      **known: arguments that are passed to callables that take them.

    Raises:
      UsageError: the name or an argument is unknown, or one of another type; or a
        parameter has the name of an entry of the section that is no argument.
    """
    tree, outside = _tree(f"{where}.name", section["name"], registry)
    call = tree if isinstance(tree, ast.Call) else ast.Call(tree, [], [])
    name = ast.unparse(call.func)
    fn = adapt_fn(_named(f"{where}.name", name, registry, outside))
    arguments = {
        item.arg: _literal(f"{where}.name", item.value) for item in call.keywords
    }
    positional = [_literal(f"{where}.name", item) for item in call.args]
    arguments |= {
        key: _frozen(section[key])
        for key in section
        if schema.type_of(f"{where}.{key}") is None
    }
    parameters = _parameters(fn)
    for key in parameters:
        if key != "name" and schema.type_of(f"{where}.{key}") is not None:
            raise UsageError(
                f"{where}.name: {section['name']} has a parameter {key!r}, but "
                f"{where}.{key} is never passed to it; give it another name"
            )
    for key in arguments.keys() & parameters.keys():
        wanted = _wanted(parameters[key].annotation, arguments[key])
        if wanted in schema.WORDS:
            arguments[key] = schema.typed(f"{where}.{key}", arguments[key], wanted)
    shown = section["name"] if name in outside else name
    return _call(where, shown, fn, positional, arguments, known)


def _wanted(annotation: Any, value: Any) -> Any:
    """Returns the type of an argument; of `T | None` T, unless the value is None."""
    parts = get_args(annotation) if isinstance(annotation, types.UnionType) else ()
    if len(parts) != 2 or parts[1] is not type(None):
        return annotation
    return None if value is None else parts[0]


def takes(where: str, name: str, registry: Registry) -> set[str]:
    """Returns the names of the arguments that the callable of a call string takes."""
    tree, outside = _tree(where, name, registry)
    node = tree.func if isinstance(tree, ast.Call) else tree
    return {*_parameters(_named(where, ast.unparse(node), registry, outside))}


def type_of_argument(where: str, name: str, registry: Registry, key: str) -> Any:
    """Returns the type of an argument of a call string's callable, T of `T | None`.

    None where there is no such argument, or its type is none of `schema.WORDS`.
    """
    tree, outside = _tree(where, name, registry)
    node = tree.func if isinstance(tree, ast.Call) else tree
    found = _parameters(_named(where, ast.unparse(node), registry, outside)).get(key)
    wanted = None if found is None else _wanted(found.annotation, ...)
    return wanted if wanted in schema.WORDS else None


def parse(
    where: str,
    text: str,
    registry: Registry,
    *,
    parts: Mapping[str, Registry] | None = None,
    defaults: Mapping[str, Any] | None = None,
    **known: Any,
) -> Any:
    """Builds the object that a call string describes; nothing is evaluated.

    Args:
      where: config key, for errors.
      text: `name`, `name(key=literal)` or `name(other_name(...))`; a name may be
        `module:name`.
      registry: names to callables.
      parts: registries of names that are arguments, by the name of the parameter; for
        others it is the registry of what they are arguments of.
      defaults: arguments of the outermost call where it takes them and the text does
        not give them.
      **known: arguments that are passed to callables that take them.

    Raises:
      UsageError: the text is no call string, or a name or an argument is unknown.
    """
    tree, outside = _tree(where, text, registry)
    if defaults:
        call = tree if isinstance(tree, ast.Call) else ast.Call(tree, [], [])
        name = ast.unparse(call.func)
        taken = [*_parameters(_named(where, name, registry, outside))]
        given = {item.arg for item in call.keywords} | {*taken[: len(call.args)]}
        missing = {
            key: defaults[key] for key in taken if key in defaults.keys() - given
        }
        known = known | missing
    return _evaluate(where, tree, registry, parts or {}, known, outside)


def _tree(
    where: str, text: str, registry: Registry
) -> tuple[ast.expr, dict[str, tuple[str, str]]]:
    """Parses a call string: its syntax tree, and what its placeholders stand for.

    `module:name` is no Python: each is a placeholder in the tree.
    """
    outside: dict[str, tuple[str, str]] = {}

    def placeholder(match: re.Match) -> str:
        key = f"_external_{len(outside)}"
        outside[key] = match[1], match[2]
        return key

    pieces = re.split(f"({external.STRING.pattern})", text.strip())
    pieces[::2] = [external.REFERENCE.sub(placeholder, piece) for piece in pieces[::2]]
    try:
        tree = ast.parse("".join(pieces), mode="eval").body
    except UNPARSABLE:
        tree = None
    if not isinstance(tree, (ast.Name, ast.Call)):
        raise UsageError(
            f"{where}={shown(text)}: must be a name, with arguments in brackets if "
            f"any, such as {next(iter(registry), 'module:name')!r}; known: "
            f"{', '.join(registry) or 'module:name'}"
        )
    return tree, outside


def _named(
    where: str, name: str, registry: Registry, outside: Mapping[str, tuple[str, str]]
) -> Callable[..., Any]:
    """Finds the constructor of a name: a user's own, or one of the registry."""
    if name in outside:
        return external.resolve(where, *outside[name])
    check_name(where, name, registry)
    return registry[name]


def _literal(where: str, node: ast.expr) -> Any:
    try:
        return ast.literal_eval(node)
    except UNPARSABLE:
        raise UsageError(
            f"{where}: {_shown(node)} is no number, string, bool, None or tuple of them"
        ) from None


def _shown(node: ast.expr) -> str:
    """Formats an argument as it was written."""
    try:
        return repr(ast.unparse(node))
    except RecursionError:
        return "an argument, which is nested too deeply,"


def _evaluate(
    where: str,
    node: ast.expr,
    registry: Registry,
    parts: Mapping[str, Registry],
    known: Mapping[str, Any],
    outside: Mapping[str, tuple[str, str]],
) -> Any:
    """Builds what a name or call of the registry describes, or reads a literal."""
    if isinstance(node, ast.Name):
        node = ast.Call(func=node, args=[], keywords=[])
    if not isinstance(node, ast.Call):
        return _literal(where, node)
    name = ast.unparse(node.func)
    fn = _named(where, name, registry, outside)
    if any(item.arg is None for item in node.keywords):
        raise UsageError(
            f"{where}: {ast.unparse(node)}: write the arguments without **"
        )

    def argument(key: str | None, item: ast.expr) -> Any:
        return _evaluate(where, item, parts.get(key, registry), parts, known, outside)

    order = _parameters(fn)
    positional = [
        argument(key, item)
        for key, item in itertools.zip_longest(list(order)[: len(node.args)], node.args)
    ]
    keywords = {item.arg: argument(item.arg, item.value) for item in node.keywords}
    shown = ":".join(outside[name]) if name in outside else name
    return _call(where, shown, fn, positional, keywords, known)


def _parameters(fn: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(fn).parameters
    except (TypeError, ValueError):  # a class written in C
        return {}


def _call(
    where: str,
    name: str,
    fn: Callable[..., Any],
    positional: list[Any],
    keywords: Mapping[str, Any],
    known: Mapping[str, Any],
) -> Any:
    """Calls `fn`, with errors that name the config key."""
    if not callable(fn):
        raise UsageError(f"{where}: {name} is no class or function: {fn!r}")
    parameters = _parameters(fn)
    any_keyword = any(
        each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters.values()
    )
    offered = [key for key in parameters if key not in {"parent", "name", *known}]
    for key in () if any_keyword else keywords:
        check_name(f"argument of {where} {name!r}", key, offered)
    filled = {key: value for key, value in known.items() if key in parameters}
    with naming(f"{where}: {name}"):
        return fn(*positional, **{**filled, **keywords})


def _frozen(value: Any) -> Any:
    """Converts lists, and what JSON made of tuples, to tuples."""
    if isinstance(value, (list, tuple)):
        return tuple(_frozen(item) for item in value)
    return value
