"""Entries of a config on the command line: read, overridden, printed."""

import ast
import decimal
import pathlib
import re
import runpy
import shlex
from collections.abc import Iterator, Mapping
from typing import Any, get_origin

from ml_collections import ConfigDict, FrozenConfigDict
from ml_collections.config_dict import RequiredValueError

from experiments.config import schema
from experiments.runtime.errors import UsageError, check_name, nearest


def load_config(flag_value: str, flag: str = "--config") -> ConfigDict:
    """The config of `--config=FILE` or `--config=FILE:ARGUMENT`.

    Raises:
      UsageError: there is no such file, or it gives no config.
    """
    name, *argument = flag_value.split(":", 1)
    path = pathlib.Path(name)
    if not path.is_file():
        there = sorted(map(str, path.parent.glob("*.py")))
        raise UsageError(f"{flag}: no file {name!r}; {nearest(name, there)}")
    try:
        config = runpy.run_path(name)["get_config"](*argument)
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise UsageError(f"{flag}: {name} gives no config: {reason}") from error
    if not isinstance(config, ConfigDict) or isinstance(config, FrozenConfigDict):
        kind = type(config).__name__
        reason = f"get_config() returns a {kind}, not an ml_collections.ConfigDict"
        raise UsageError(f"{flag}: {name} gives no config: {reason}")
    return config


def split(argv: list[str]) -> tuple[list[str], dict[str, Any]]:
    """The arguments as absl can take them, and the overrides that it cannot, by name.

    Whole numbers such as 1e5 are written as integers. absl reads a text by the type of
    the entry's value: where that is None, a list, or of another type than the schema
    says, the text is read here. Refuses a config that is not there, and entries that it
    does not have: absl would show a traceback for either, or nothing until the first
    use.
    """
    found = [text for _, name, text, _ in _given(argv) if name == "config"]
    if not found or found[-1] is None:
        return argv, {}
    config, result, late = load_config(found[-1]), list(argv), {}
    for place, name, text, width in _given(argv):
        if not re.match("(no)?config[.]", name):
            continue
        current, kind = _entry(config, name.removeprefix("no"))
        if text is None:
            continue
        entry = name.removeprefix("config.")
        wanted = schema.type_of(entry) or kind
        wanted = get_origin(wanted) or wanted
        if wanted is int:
            text = _as_integer(text)
        if kind in (tuple, list) and current and {*map(type, current)} == {int}:
            text = ",".join(map(_as_integer, text.split(",")))
        if current is None or kind is not wanted or kind is list:
            late[entry] = _read(text, wanted)
            result[place : place + width] = [None] * width
        else:
            result[place : place + width] = (
                [f"--{name}={text}"] if width == 1 else [argv[place], text]
            )
    return [argument for argument in result if argument is not None], late


def _given(argv: list[str]) -> Iterator[tuple[int, str, str | None, int]]:
    """The flags: place, name, text (None if there is none), number of arguments."""
    for place, argument in enumerate(argv):
        match = re.fullmatch(r"--?([\w.]+)(?:=(.*))?", argument, re.DOTALL)
        if match is None:
            continue
        name, text = match.groups()
        following = argv[place + 1 : place + 2]
        if text is None and following and not following[0].startswith("--"):
            yield place, name, following[0], 2
        else:
            yield place, name, text, 1


def _entry(config: Mapping[str, Any], flag: str) -> tuple[Any, type]:
    """The value of the entry of a flag `config.a.b`, and its type."""
    section, where, kind = config, "--config", dict
    for key in flag.split(".")[1:]:
        known = list(section) if hasattr(section, "keys") else []
        check_name(where, key, known)
        kind = _type(section, key)
        section, where = schema.value(section, key), f"{where}.{key}"
    return section, kind


def _type(section: ConfigDict, key: str) -> type:
    """Of the value of an entry, or of the one that a placeholder requires."""
    try:
        return section.get_type(key)
    except RequiredValueError:
        return section.get_ref(key).get_type()


def _read(text: str, wanted: type) -> Any:
    """A literal of Python, or else the text itself; a tuple may have one item."""
    if wanted is str and text != "None":
        return text
    try:
        found = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
    single = wanted in (tuple, list) and isinstance(found, (int, float))
    return (found,) if single else found


def _as_integer(text: str) -> str:
    """A whole number however it is written, as an integer; other text as it is."""
    try:
        value = decimal.Decimal(text.strip())
    except decimal.InvalidOperation:
        return text
    whole = value.is_finite() and value == value.to_integral_value()
    return str(int(value)) if whole else text


def as_flags(config: Mapping[str, Any], prefix: str = "--config") -> list[str]:
    """Every entry as `--config.a.b=value`, quoted for a shell."""
    found = []
    for key in config:
        name, value = f"{prefix}.{key}", schema.value(config, key)
        if hasattr(value, "items"):
            found += as_flags(value, name)
        else:
            found.append(shlex.quote(f"{name}={value}"))
    return found
