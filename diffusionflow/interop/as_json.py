"""Schedules, prediction types and networks of this library as plain JSON values."""

import dataclasses
import importlib
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffusionflow import schedules
from diffusionflow._dataclass import check_name

# of a config that `interop.save` wrote
ENTRIES = ("network", "schedule", "kind", "sigma_data", "convention", "event_shape")
# modules of classes that a config may name
HOMES = ("schedules", "predictions", "networks", "networks.pretrained")


def described(where: str, value: Any) -> Any:
    """Converts a value of this library to plain JSON values, which `rebuilt` reads.

    Args:
      where: it stands, for errors.
      value: a schedule, kind or network, or a field of one.

    Raises:
      ValueError: its class, or that of a field, is none of this library.
    """
    if where.endswith(".dtype"):
        return jnp.dtype(value).name
    if isinstance(value, float | np.floating) and not math.isfinite(value):
        return {"_float": str(value)}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, tuple | list):
        return [described(where, each) for each in value]
    if isinstance(value, np.ndarray | np.generic | jax.Array):
        array = np.asarray(value)
        return {"_array": array.tolist(), "dtype": str(array.dtype)}
    home = _home_of(value)
    if home is None:
        raise ValueError(
            f"{where}: {value!r} is none of this library: its file could not be opened "
            "elsewhere; such networks are saved by code of your own"
        )
    fields = [
        each.name
        for each in dataclasses.fields(value)
        if each.name not in ("parent", "name") or home in ("schedules", "predictions")
    ]
    entries = {
        each: described(f"{where}.{each}", getattr(value, each)) for each in fields
    }
    return {"_class": f"{home}.{type(value).__name__}", **entries}


def _home_of(value: Any) -> str | None:
    """Finds the module where the class of a value is public; None for another class."""
    name = type(value).__name__
    homes = (
        each for each in HOMES if getattr(_module(each), name, None) is type(value)
    )
    return next(homes, None) if dataclasses.is_dataclass(value) else None


def _module(home: str) -> Any:
    return importlib.import_module(f"diffusionflow.{home}")  # networks need flax


def rebuilt(where: str, value: Any) -> Any:
    """Makes the value of this library whose JSON values `described` returned.

    Raises:
      ValueError: a class or a field is none of this library, or out of bounds.
    """
    if isinstance(value, list):
        return tuple(rebuilt(where, each) for each in value)
    if not isinstance(value, dict):
        return value
    if "_float" in value or "_array" in value:
        return _numbers(where, value)
    home, _, name = str(value.get("_class")).rpartition(".")
    found = getattr(_module(home), name, None) if home in HOMES else None
    if not isinstance(found, type) or not dataclasses.is_dataclass(found):
        raise ValueError(
            f"{where}: class {value.get('_class')!r} must be of this library"
        )
    entries = {key: rebuilt(f"{where}.{key}", value[key]) for key in value}
    del entries["_class"]
    for key in entries:
        names = [each.name for each in dataclasses.fields(found)]
        check_name(f"{where}: field of {home}.{name}", key, names)
    try:
        return found(**entries)
    except Exception as error:  # entries are of any type
        detail = " ".join(str(error).split())[:200]
        raise ValueError(f"{where}: {home}.{name}: {detail}") from error


def _numbers(where: str, value: dict[str, Any]) -> Any:
    """Reads a float that JSON cannot write, or an array."""
    try:
        if "_float" in value:
            return float(value["_float"])
        return np.asarray(value["_array"], np.dtype(value["dtype"]))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{where}: {str(value)[:100]}: must be _float, or _array with its dtype"
        ) from error


def meaning_of(config: Mapping[str, Any]) -> tuple[Any, schedules.Schedule, Any]:
    """Returns network, schedule and kind of a config that `interop.save` wrote.

    Raises:
      ValueError: an entry is missing or none of this library.
    """
    missing = [name for name in ENTRIES if name not in config]
    if missing:
        raise ValueError(f"config.json has no {', '.join(missing)}: export again")
    module, schedule, kind = (
        rebuilt(name, config[name]) for name in ("network", "schedule", "kind")
    )
    scale, shape, null = (
        config.get(name) for name in ("sigma_data", "event_shape", "null_label")
    )
    sides = shape if isinstance(shape, list) else [shape]
    positive = isinstance(scale, int | float) and 0 < scale < float("inf")
    holds: dict[str, tuple[bool, str]] = {
        "network": (hasattr(module, "apply"), "a network"),
        "schedule": (isinstance(schedule, schedules.Schedule), "a schedule"),
        "kind": (hasattr(kind, "plane"), "a prediction type"),
        "sigma_data": (positive, "a positive number"),
        "event_shape": (
            isinstance(shape, list) and all(_whole(each, 1) for each in sides),
            "a list of positive integers",
        ),
        "null_label": (null is None or _whole(null, 0), "an integer from 0, or null"),
    }
    for name, (right, wanted) in holds.items():
        if not right:
            raise ValueError(
                f"config.json: {name}={config[name]!r}: must be {wanted}; export again"
            )
    return module, schedule, kind


def _whole(value: Any, low: int) -> bool:
    return type(value) is int and value >= low
