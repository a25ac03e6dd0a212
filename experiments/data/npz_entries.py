"""The arrays of an `.npz` file, found by name and checked."""

import contextlib
import pathlib
import re
import zipfile
from collections.abc import Collection, Iterator, Mapping
from typing import NamedTuple

import numpy as np

from experiments.data.array_checks import finite
from experiments.data.base import Examples
from experiments.data.image_check import say
from experiments.data.regular_file import check_regular
from experiments.runtime.errors import UsageError

Arrays = Mapping[str, np.ndarray]


class Names(NamedTuple):
    """Under which names a file holds its arrays; see `npz_files`.

    Fields:
      labels: of the class labels; an empty name for none.
      conditions: of the vectors, one name or several; empty for none.
      mask: of the values that count; an empty name for none.
    """

    labels: str = "labels"
    conditions: str | tuple[str, ...] = "conditions"
    mask: str = "mask"


DEFAULTS = Names()
LABELS = re.compile(r"y(_.*)?|.*(label|class|target|categor).*", re.IGNORECASE)


def read_npz(path: str) -> dict[str, np.ndarray]:
    """Reads all arrays of an `.npz`, whose path an error does not name.

    Raises:
      ValueError: if the file is missing or corrupted.
    """
    try:
        check_regular(path)
        if not zipfile.is_zipfile(path):
            one = "one array alone, not " if pathlib.Path(path).suffix == ".npy" else ""
            raise ValueError(f"{one}an archive of arrays, as numpy.savez writes it")
        with np.load(path, allow_pickle=False) as file:
            return {name: _read(file, name) for name in file.files}
    except Exception as error:  # whatever a corrupted archive raises
        raise ValueError(f"no readable .npz file: {error}") from error


def _read(file: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    """Reads an array; an empty one of objects for what only pickle could read."""
    try:
        return file[name]
    except ValueError as error:
        if "allow_pickle" not in str(error):
            raise
        return np.empty(0, object)


def array(arrays: Arrays, *names: str) -> np.ndarray:
    """Returns the one array of `names` that there is.

    Raises:
      ValueError: if there is none, or more than one, or it holds Python objects.
    """
    found = [name for name in names if name in arrays]
    if len(found) != 1:
        listed = " or ".join(map(repr, names))
        has = "more than one array" if found else "no array"
        raise ValueError(f"{has} {listed}; it has {', '.join(arrays)}")
    chosen = arrays[found[0]]
    if chosen.dtype.kind == "O":
        raise ValueError(
            f"{found[0]!r} holds Python objects, which are not read: save it as an "
            "array of numbers or words"
        )
    return chosen


def check_names(names: Names, *values: str) -> None:
    """Raises a ValueError where one array would be read as two things.

    Args:
      names: of the entries besides the values.
      values: names that the values may have.
    """
    conditions = names.conditions
    parts = (conditions,) if isinstance(conditions, str) else conditions
    if not isinstance(parts, (tuple, list)) or not all(
        isinstance(n, str) for n in parts
    ):
        raise ValueError(f"conditions={conditions!r}: must be a name, or several")
    every = [*values, names.labels, *parts, names.mask]
    twice = [name for name in every if name and every.count(name) > 1]
    if twice:
        raise ValueError(
            f"the array {twice[0]!r} is named twice, as two of values, labels, "
            "conditions and mask: give each a name of its own, '' for none"
        )


def examples(arrays: Arrays, names: Names, values: np.ndarray) -> Examples:
    """Reads the examples of a file; their `labels` as they are, or None for none.

    Args:
      arrays: of the file.
      names: of the entries besides the values.
      values: stored values [n, *event].

    Raises:
      ValueError: if an entry is missing or does not fit the values.
    """
    count = len(values)
    found = conditions(arrays, names.conditions)
    if found is not None and len(found) != count:
        raise ValueError(
            f"{len(found)} conditions for {count} examples: must be as many"
        )
    mask = _mask(arrays, names.mask, values.shape)
    taken = {*_listed(names.conditions), names.mask}
    labels = _labels(arrays, names.labels, count, taken)
    return Examples(values, labels, found, mask)


def conditions(arrays: Arrays, names: str | tuple[str, ...]) -> np.ndarray | None:
    """Reads the vectors of a file, float32 [n, k]: arrays [n] or [n, k_i] side by side.

    Args:
      arrays: of the file.
      names: of one array or several, in this order. None are taken by an empty name,
        and where the default name is not there.

    Raises:
      ValueError: if an array is missing, is of another shape or no number, or the
        arrays are not of the same length.
    """
    if names == DEFAULTS.conditions and names not in arrays:
        return None
    parts = [vectors(arrays, name) for name in _listed(names)]
    if len({len(part) for part in parts}) > 1:
        counts = ", ".join(f"{len(part)}" for part in parts)
        raise ValueError(
            f"conditions {', '.join(names)} of {counts} examples: must be as many each"
        )
    return np.concatenate(parts, axis=1) if parts else None


def _listed(names: str | tuple[str, ...]) -> tuple[str, ...]:
    if isinstance(names, str):
        return (names,) if names else ()
    return tuple(names)


def vectors(arrays: Arrays, name: str) -> np.ndarray:
    """Reads an array [n] or [n, k] of finite numbers as float32 [n, k].

    Raises:
      ValueError: it is missing or anything else.
    """
    found = array(arrays, name)
    if found.ndim not in (1, 2) or not found.size or found.dtype.kind not in "fiub":
        raise ValueError(
            f"{name!r} of shape {found.shape} and type {found.dtype}: conditions must "
            "be [n, k] or [n] numbers"
        )
    return finite(f"conditions {name!r}", found).reshape(len(found), -1)


def check_alike(train: Examples, test: Examples) -> None:
    """Raises a ValueError unless two files have the same entries of the same shapes."""
    pairs = zip(Examples._fields, train, test, strict=True)
    for name, one, other in pairs:
        if (one is None) != (other is None):
            has, lacks = ("has no", "has") if other is None else ("has", "has none")
            raise ValueError(
                f"{has} {name}, and the file of training examples {lacks}: must be "
                "alike; add the array, or leave it out of both"
            )
        if one is not None and one.shape[1:] != other.shape[1:]:
            raise ValueError(
                f"{name} of shape {list(other.shape[1:])} each: must be "
                f"{list(one.shape[1:])}, as in the file of training examples"
            )
    if train.values.dtype != test.values.dtype:
        raise ValueError(
            f"values of type {test.values.dtype}: must be {train.values.dtype}, as in "
            "the file of training examples"
        )


def say_unused(path: str, arrays: Arrays, names: Names, *values: str) -> None:
    """Says which arrays of a file are not read; `values` are those of the examples."""
    used = {names.labels, *_listed(names.conditions), names.mask, *values}
    left = [name for name in arrays if name not in used]
    if left:
        say(f"note: {path}: not read: {', '.join(left)}")


@contextlib.contextmanager
def naming_file(path: str) -> Iterator[None]:
    """Begins the message of a ValueError inside with the path of the file."""
    try:
        yield
    except UsageError:
        raise
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _optional(arrays: Arrays, name: str, default: str) -> np.ndarray | None:
    """Reads an entry by name; None if the name is empty, or the default and missing."""
    if not name or (name == default and name not in arrays):
        return None
    return array(arrays, name)


def _labels(
    arrays: Arrays, name: str, count: int, taken: Collection[str]
) -> np.ndarray | None:
    """Reads the labels [count, ...], or None.

    Args:
      arrays: of the file.
      name: of the labels.
      count: of the examples.
      taken: names of other entries.

    Raises:
      ValueError: there is another count of them, or none by the default name, and an
        array that has the name of labels instead.
    """
    found = _optional(arrays, name, DEFAULTS.labels)
    if found is not None:
        if not found.ndim or len(found) != count:
            raise ValueError(
                f"{len(np.atleast_1d(found))} labels for {count} examples: must be as "
                "many"
            )
        return found
    for other in arrays.keys() - taken if name else ():
        found = arrays[other]
        if LABELS.fullmatch(other) and len(found) == found.size == count:
            raise ValueError(
                f"no array {name!r}, but {other!r}: labels={other!r} reads it as the "
                "classes, labels='' goes without"
            )
    return None


def _mask(arrays: Arrays, name: str, shape: tuple[int, ...]) -> np.ndarray | None:
    """Reads a mask of zeros and ones as bool, of the rank of `shape` = [n, *event]."""
    found = _optional(arrays, name, DEFAULTS.mask)
    if found is None:
        return None
    whole = found.shape + (1,) * (len(shape) - found.ndim)
    fits = len(whole) == len(shape) and whole[:1] == shape[:1]
    if not fits or any(
        size not in (1, there) for size, there in zip(whole, shape, strict=True)
    ):
        raise ValueError(
            f"{name!r} of shape {found.shape}: must begin as the values of shape "
            f"{shape} do, with 1 along an axis or axes left out at the end where it is "
            "the same"
        )
    if found.dtype.kind not in "biuf" or not np.isin(found, (0, 1)).all():
        raise ValueError(
            f"{name!r} of type {found.dtype}: must be 1 where a value counts, else 0"
        )
    found = found.astype(bool).reshape(whole)
    empty = np.flatnonzero(~found.reshape(len(found), -1).any(1))
    if len(empty):
        raise ValueError(
            f"{name!r} is zero everywhere for {len(empty)} examples, the first of them "
            f"number {empty[0]}: leave these out"
        )
    return found
