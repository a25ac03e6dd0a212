"""Provenance (`recipe`) of numbers, as JSON: different recipes do not compare."""

import dataclasses
import hashlib
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

FEW = 16  # arrays of more entries are named by their digest


def describe(value: Any) -> Any:
    """Describes a metric, kernel, law or key in JSON types.

    Dataclasses become `{"name": ..., field: ...}`; typed keys their words; arrays of
    more than 16 entries their shape and a digest of their values in float64; functions
    their qualified name.

    Args:
      value: any of these, or containers of them.
    """
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if dataclasses.is_dataclass(value):
        fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        return {"name": type(value).__name__, **describe(fields)}
    if hasattr(value, "_asdict"):
        return describe(value._asdict())
    if isinstance(value, dict):
        return {str(name): describe(part) for name, part in value.items()}
    if isinstance(value, (tuple, list)):
        return [describe(part) for part in value]
    if isinstance(value, (np.ndarray, np.generic, jax.Array)):
        return _describe_array(value)
    return f"{getattr(value, '__module__', '')}.{_name(value)}"


def _name(fn: Any) -> str:
    return getattr(fn, "__qualname__", type(fn).__qualname__)


def _describe_array(value: Any) -> Any:
    if jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
        return np.asarray(jax.random.key_data(value)).tolist()
    array = np.asarray(value)
    if array.size <= FEW:
        return array.tolist()
    digest = hashlib.sha256(np.ascontiguousarray(array, np.float64).tobytes())
    return {"shape": list(array.shape), "sha256": digest.hexdigest()[:16]}


def same_recipe(a: Any, b: Any, *, ignore: Iterable[str] = ()) -> dict[str, Any]:
    """Returns what two recipes differ in, empty where their numbers compare.

    Args:
      a: a recipe, of an `Estimate` or read from JSON.
      b: another.
      ignore: entries that may differ, with all below them, such as `"bootstrap"`, which
        moves the error bars and not the values.

    Returns:
      `{"metric.kernel.degree": (3, 2), ...}`; the entry of a recipe that has none is
      `"(none)"`.
    """
    left, right = dict(_leaves(a, "")), dict(_leaves(b, ""))
    ignore = tuple(ignore)
    skipped = lambda path: any(
        path == name or path.startswith(f"{name}.") for name in ignore
    )
    pairs = {
        path: (left.get(path, "(none)"), right.get(path, "(none)"))
        for path in sorted(left | right)
        if not skipped(path)
    }
    return {path: pair for path, pair in pairs.items() if pair[0] != pair[1]}


def check_same_recipe(a: Any, b: Any, *, ignore: Iterable[str] = ()) -> None:
    """Raises a `ValueError` that lists what two recipes differ in.

    Args:
      a: as in `same_recipe`.
      b: as in `same_recipe`.
      ignore: as in `same_recipe`.
    """
    different = same_recipe(a, b, ignore=ignore)
    if different:
        lines = [f"{path} {p!r} and {q!r}" for path, (p, q) in different.items()]
        raise ValueError(
            f"the recipes differ in {'; '.join(lines)}: numbers of different recipes "
            "do not compare; compute both again with one recipe"
        )


def _leaves(value: Any, path: str) -> Iterable[tuple[str, Any]]:
    if isinstance(value, dict):
        for name, part in value.items():
            yield from _leaves(part, f"{path}.{name}" if path else name)
    else:
        yield path, value
