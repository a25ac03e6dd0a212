"""Which entries a config has, and of which type each is.

The further entries of `data` and `network` are judged by what these name.
"""

import contextlib
import numbers
from collections.abc import Iterator, Mapping
from typing import Any, get_args, get_origin

from ml_collections import ConfigDict
from ml_collections.config_dict import RequiredValueError

from experiments.runtime.errors import UsageError, check_name, nearest

ENTRIES = {
    "seed": int,
    "num_steps": int,
    "batch_size": int,
    "data": dict(name=str),
    "objective": dict(schedule=str, kind=str, weighting=str, times=str, proposal=str),
    "sigma_data": float,
    "label_dropout": float,
    "network": dict(name=str),
    "optimizer": dict(
        learning_rate=float,
        warmup_steps=int,
        schedule=str,
        b1=float,
        b2=float,
        weight_decay=float,
        clip_norm=float,
        accumulate=int,
        nonfinite_limit=int,
    ),
    "ema": dict(
        limit=float, warmup=float, sigma_rel=tuple[float, ...], store_every=int
    ),
    "matmul_precision": str,
    "cpu_devices": int,
    "sharding": dict(fsdp=int, least_size=int),
    "log": dict(every=int, logsnr_min=float, logsnr_max=float, num_bins=int),
    "eval": dict(every=int, draws=int),
    "sampler": dict(name=str, num_steps=int, grid=str),
    "guidance": float,
    "samples": dict(every=int, per_class=int),
    "checkpoint": dict(every=int, keep=int, keep_best=int, metric=str),
}
OPEN = ("data", "network")
OPTIONAL = ("objective.proposal",)
WORDS = {
    int: "a whole number",
    float: "a number",
    str: "a string",
    bool: "True or False",
    tuple[int, ...]: "a tuple of whole numbers",
    tuple[float, ...]: "a tuple of numbers",
}


def settle(config: ConfigDict) -> None:
    """Gives every entry of a config its type, in place.

    A whole number may be written as a float, a number as an integer, a tuple as a list.
    What is None is left to `check_complete`.

    Raises:
      UsageError: an entry is unknown or missing, or its value is of another type.
    """
    _check_names("config", config, ENTRIES)
    for key, known in ENTRIES.items():
        if not isinstance(known, type):
            _check_names(f"config.{key}", value(config, key), known, key in OPEN)
    for name, section, key, wanted in _entries(config):
        found = value(section, key)
        if found is None or wanted is None:
            continue
        given = typed(name, found, wanted)
        if type(given) is not type(found) or given != found:
            with section.unlocked():
                del section[key]  # or what replaces a float becomes one
                section[key] = given


def check_complete(config: ConfigDict) -> None:
    """Raises a `UsageError` where an entry that needs a value has none."""
    for name, section, key, wanted in _entries(config):
        with contextlib.suppress(RequiredValueError):
            if section[key] is not None or wanted is None or name in OPTIONAL:
                continue
        raise UsageError(f"{name} has no value: give it with --config.{name}=VALUE")


def value(section: Mapping[str, Any], key: str) -> Any:
    """Of an entry; None too where a placeholder requires one."""
    try:
        return section[key]
    except RequiredValueError:
        return None


def type_of(name: str) -> Any:
    """Of an entry, by its dotted name; None if it is not judged here."""
    key, _, inner = name.partition(".")
    known = ENTRIES.get(key)
    return known.get(inner) if isinstance(known, dict) else known


def typed(name: str, value: Any, wanted: Any) -> Any:
    """The value of an entry as one of the types of `WORDS`.

    Raises:
      UsageError: it is none.
    """
    number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    with contextlib.suppress(OverflowError):
        if wanted is float and number:
            return float(value)
        if wanted is int and number and float(value).is_integer():
            return int(value)
    if wanted in (str, bool) and isinstance(value, wanted):
        return value
    if get_origin(wanted) is tuple and isinstance(value, (list, tuple)):
        return tuple(typed(name, item, get_args(wanted)[0]) for item in value)
    told = " ".join(repr(value).split())
    raise UsageError(f"{name}={told}: must be {WORDS[wanted]}")


def _entries(config: ConfigDict) -> Iterator[tuple[str, ConfigDict, str, Any]]:
    """Every entry: its dotted name, the section and the key there, and its type."""
    for key, known in ENTRIES.items():
        if isinstance(known, type):
            yield key, config, key, known
        else:
            for inner in config[key]:
                yield f"{key}.{inner}", config[key], inner, known.get(inner)


def _check_names(where: str, section: Any, known: Any, is_open: bool = False) -> None:
    if not hasattr(section, "keys"):
        raise UsageError(f"{where}={section!r}: must have entries: {', '.join(known)}")
    for name in () if is_open else section:
        check_name(where, name, known)
    for name in known:
        if name not in section:
            raise UsageError(f"{where}: no entry {name!r}; {nearest(name, section)}")


RANKING_METRICS = ("test_loss_ema", "test_loss_raw", "loss")  # the lower, the better
