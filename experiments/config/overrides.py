"""A config from its file, with entries overridden on the command line.

The file is run once; `--config.a.b=text` is read by the type of the entry.
"""

import ast
import contextlib
import decimal
import glob
import os
import pathlib
import re
import runpy
import shlex
import sys
import types
from collections.abc import Iterator, Mapping
from typing import Any, get_args, get_origin

from ml_collections import ConfigDict, FrozenConfigDict
from ml_collections.config_dict import RequiredValueError

import experiments
from experiments.config import parsing, registry, schema
from experiments.runtime.errors import (
    LONG,
    UNPARSABLE,
    UsageError,
    check_name,
    nearest,
)

NAMED = dict(network=registry.NETWORKS, data=registry.DATASETS)  # `schema.OPEN`
MOST_DIGITS = 18  # of a whole number
TRUE, FALSE = ("true", "t", "yes", "y", "1"), ("false", "f", "no", "n", "0")


def shipped() -> pathlib.Path:
    """Returns the directory of the shipped configs: of the package, or of a clone."""
    package = pathlib.Path(experiments.__file__).resolve().parent
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"


def shipped_names() -> list[str]:
    """Lists the names of the shipped configs."""
    return sorted(path.stem for path in shipped().glob("*.py"))


def is_shipped(name: str) -> bool:
    """Returns whether `name` is that of a shipped config."""
    return (shipped() / f"{name.partition(':')[0]}.py").is_file()


def find_file(name: str, flag: str = "--config") -> pathlib.Path:
    """Finds the config file of a path, or of the name of a shipped config.

    Raises:
      UsageError: there is none.
    """
    path = pathlib.Path(name)
    if os.path.isfile(path):  # False too where the name is too long
        return path
    known = {each.stem: each for each in sorted(shipped().glob("*.py"))}
    if path.name == name and not path.suffix:
        if name in known:
            return known[name]
        raise UsageError(
            f"{flag}: no file and no shipped config {name!r}; {nearest(name, known)}"
        )
    there = sorted(glob.glob(f"{glob.escape(str(path.parent))}/*.py"))
    raise UsageError(f"{flag}: no file {name!r}; {nearest(name, there)}")


def load_config(flag_value: str, flag: str = "--config") -> ConfigDict:
    """Runs a config file: `FILE`, `FILE:ARGUMENT`, or the name of a shipped config.

    Args:
      flag_value: the text of the flag.
      flag: for errors.

    Raises:
      UsageError: there is no such file, or it gives no config.
    """
    name, *argument = flag_value.split(":", 1)
    path = find_file(name, flag)
    try:
        with importing_from(path.resolve().parent.parent):  # `from configs import ...`
            config = runpy.run_path(str(path))["get_config"](*argument)
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise UsageError(f"{flag}: {name} gives no config: {reason}") from error
    if not isinstance(config, ConfigDict) or isinstance(config, FrozenConfigDict):
        kind = type(config).__name__
        reason = f"get_config() returns a {kind}, not an ml_collections.ConfigDict"
        raise UsageError(f"{flag}: {name} gives no config: {reason}")
    return config


@contextlib.contextmanager
def importing_from(folder: pathlib.Path) -> Iterator[None]:
    """Looks for modules in `folder` too, after everything else."""
    sys.path.append(str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))


def split(
    argv: list[str], after: str | None = "config"
) -> tuple[list[str], list[tuple[str, str | None]]]:
    """Splits arguments into the others and the overrides of entries, flag and text.

    Args:
      argv: of the command line.
      after: the flag that overrides must follow, or None.

    Raises:
      UsageError: an override comes before that flag.
    """
    rest, given, seen = [], [], after is None
    arguments = iter(argv)
    for argument in arguments:
        match = re.fullmatch(r"--?((?:no)?config[.][\w.]+)(?:=(.*))?", argument, re.S)
        if match is None:
            seen = seen or re.match(rf"--?{after}\b", argument) is not None
            rest.append(argument)
            continue
        if not seen:
            raise UsageError(f"{argument}: must come after --{after}=FILE")
        name, text = match.groups()
        given.append((name, text))
    return rest, given


def with_values(argv: list[str]) -> list[str]:
    """Rewrites `--config.a.b VALUE` as `--config.a.b=VALUE`."""
    result: list[str] = []
    for argument in argv:
        entry = result and re.fullmatch(r"--?config[.][\w.]+", result[-1])
        if entry and not argument.startswith("--"):
            result[-1] += f"={argument}"
        else:
            result.append(argument)
    return result


def apply(config: ConfigDict, given: list[tuple[str, str | None]]) -> None:
    """Overrides entries, in order but for names, which come first.

    A new `network.name` or `data.name` replaces the section: entries of the file that
    belong to the old name are left out, and printed.

    Args:
      config: complete but for these entries; changed in place.
      given: of `split`.

    Raises:
      UsageError: there is no such entry, or the text is of another type.
    """
    for flag, text in given:
        for section in schema.OPEN:
            if flag == f"config.{section}.name" and text is not None:
                _replace_section(config, section, text, names(given))
    # arguments have the types that those of the name take
    for flag, text in sorted(given, key=lambda each: not each[0].endswith(".name")):
        name = _entry(flag)
        *sections, key = name.split(".")
        place, where = config, "--config"
        for section in sections:
            _check_entry(where, place, section)
            place, where = schema.value(place, section), f"{where}.{section}"
        if not (hasattr(place, "keys") and sections and sections[0] in schema.OPEN):
            _check_entry(where, place, key)
        if hasattr(schema.value(place, key) if key in place else None, "keys"):
            raise UsageError(_of_section(name, text or "", list(place[key])))
        value = _read(f"--{flag}", text, _wanted(place, name, key), flag[:2] == "no")
        with place.unlocked(), place.ignore_type():
            if key in place:
                del place[key]
            place[key] = value


def _of_section(name: str, text: str, entries: list[str]) -> str:
    """Says what to write where a section is given a value of its own."""
    own = [each for each in shipped_names() if each.endswith(f"_{text}")]
    config = f", or --config={own[0]} for a config with all of them" if own else ""
    known = [each for each in ("name", "schedule") if each in entries]
    first = (known or entries)[0]
    value = text if first == "name" else "VALUE"
    return (
        f"--config.{name}={text}: {name} is a section of a config; write "
        f"--config.{name}.{first}={value} for an entry of it (they are "
        f"{', '.join(entries)}){config}"
    )


def names(given: list[tuple[str, str | None]]) -> set[str]:
    """Returns the dotted names of the entries that are overridden."""
    return {_entry(flag) for flag, _ in given}


def _entry(flag: str) -> str:
    return flag.removeprefix("no").removeprefix("config.")


def _replace_section(config: ConfigDict, name: str, text: str, given: set[str]) -> None:
    section = config[name]
    old = schema.value(section, "name")
    _check_known(name, text)
    bare = lambda text: str(text).partition("(")[0].strip()
    kept = [key for key in section if schema.type_of(f"{name}.{key}") is not None]
    others = [key for key in section if key not in kept]
    if old is None or bare(old) == bare(text) or not others:
        return
    lost = [key for key in others if f"{name}.{key}" not in given]
    without = f", without the entries {', '.join(lost)} of the file" if lost else ""
    print(f"{name}: {bare(text)} in place of {bare(old)}{without}", flush=True)
    with config.unlocked():
        config[name] = ConfigDict({key: schema.value(section, key) for key in kept})


def _check_known(section: str, text: str) -> None:
    """Refuses an unknown name before it replaces a section."""
    parsing.takes(f"{section}.name", text, NAMED[section])


def _check_entry(where: str, section: Any, key: str) -> None:
    check_name(where, key, list(section) if hasattr(section, "keys") else [])


def _wanted(place: ConfigDict, name: str, key: str) -> Any:
    """Finds the type of an entry, or None where nothing says it."""
    if (wanted := schema.type_of(name)) is not None:
        return wanted
    if key not in place:
        section = name.split(".")[0]
        if name != f"{section}.{key}" or "name" not in place:
            return None  # of a section of a user's own inside this one
        called = schema.value(place, "name")
        if not isinstance(called, str):
            return None
        return parsing.type_of_argument(f"{section}.name", called, NAMED[section], key)
    try:
        kind = place.get_type(key)
    except RequiredValueError:
        return place.get_ref(key).get_type()
    if kind in (tuple, list) and place[key]:
        return types.GenericAlias(tuple, (type(place[key][0]), ...))
    return None if kind is type(None) else kind


def _read(flag: str, text: str | None, wanted: Any, negative: bool) -> Any:
    """Reads a text as a value of a type.

    Raises:
      UsageError: it is none.
    """
    if wanted is bool:
        word = "true" if text is None else text.lower()
        if word in TRUE + FALSE:
            return (word in TRUE) != negative
        raise UsageError(f"{flag}={text}: must be True or False")
    if text is None:
        raise UsageError(f"{flag}: has no value: write {flag}=VALUE")
    if text == "None":
        return None
    if wanted is str:
        return text
    if wanted in (int, float):
        return schema.typed(flag, _number(flag, text, wanted), wanted)
    if get_origin(wanted) is tuple or wanted in (tuple, list):
        return _read_tuple(flag, text, wanted)
    try:
        return ast.literal_eval(text)
    except UNPARSABLE:
        return text


def _number(flag: str, text: str, wanted: type) -> Any:
    try:
        exact = decimal.Decimal(text.strip())
    except decimal.InvalidOperation:
        wrong = f"{flag}={text[:LONG]}: must be {schema.WORDS[wanted]}"
        raise UsageError(wrong) from None
    if wanted is int and exact.is_finite() and exact.adjusted() > MOST_DIGITS:
        raise UsageError(f"{flag}={text[:LONG]}: must be below 10**{MOST_DIGITS}")
    whole = exact.is_finite() and exact == exact.to_integral_value()
    return int(exact) if wanted is int and whole else float(exact)


def _read_tuple(flag: str, text: str, wanted: Any) -> tuple:
    inner = (*get_args(wanted), None)[0]
    try:
        found = ast.literal_eval(text)
    except UNPARSABLE:
        found = tuple(part.strip() for part in text.split(",") if part.strip())
    found = tuple(found) if isinstance(found, (tuple, list)) else (found,)
    if inner in (int, float, str):
        return schema.typed(flag, found, types.GenericAlias(tuple, (inner, ...)))
    return found


def as_flags(config: Mapping[str, Any], prefix: str = "--config") -> list[str]:
    """Writes every entry as `--config.a.b=value`, quoted for a shell."""
    found = []
    for key in config:
        name, value = f"{prefix}.{key}", schema.value(config, key)
        if hasattr(value, "items"):
            found += as_flags(value, name)
        else:
            found.append(shlex.quote(f"{name}={value}"))
    return found
