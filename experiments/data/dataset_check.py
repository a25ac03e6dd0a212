"""Checks a data set before it is used: its arrays, labels, conditions, masks, noise."""

from collections.abc import Collection

import numpy as np

from experiments.data import array_checks
from experiments.data.base import DataSet, Examples, check_labels


def check(dataset: DataSet) -> None:
    """Checks what training reads of a data set.

    Raises:
      ValueError: labels are no classes of it, or values are no finite numbers; the
        parts do not fit each other; conditions, a mask or noise do not fit the
        examples; something is drawn of examples with noise, which that would not
        follow; or values of levels are floats without noise.
    """
    _check_classes(dataset)
    for name, part in (("train", dataset.train), ("test", dataset.test)):
        _check_labels(name, part, dataset.num_classes)
        _check_values(name, part, dataset.transform.levels)
        _check_conditions(f"{name}.conditions", part)
        _check_mask(f"{name}.mask", part)
        _check_noise(f"{name}.noise", part)
    _check_alike(dataset)
    if dataset.train.noise is not None and dataset.augment_fn is not None:
        raise ValueError(
            "pairs of noise and example with an augment_fn, such as flips: the noise "
            "would not follow it; leave it out"
        )


def _check_classes(dataset: DataSet) -> None:
    count, names = dataset.num_classes, dataset.class_names
    whole = isinstance(count, (int, np.integer)) and not isinstance(count, bool)
    if not whole or count < 0:
        raise ValueError(f"num_classes={count!r}: must be a whole number, 0 for none")
    if len(names) not in (0, count):
        raise ValueError(
            f"{len(names)} class_names for {count} classes: must be one for each"
        )
    twice = [name for name in names if list(names).count(name) > 1][:1]
    if twice or isinstance(names, str) or not all(isinstance(n, str) for n in names):
        named = f", {twice[0]!r} is there twice" if twice else ""
        raise ValueError(f"class_names: must be different strings{named}")


def _check_labels(name: str, part: Examples, num_classes: int) -> None:
    if len(part.labels) != len(part.values):
        raise ValueError(
            f"{name}: {len(part.labels)} labels for {len(part.values)} examples: must "
            "be one for each"
        )
    try:
        check_labels(part.labels, max(1, num_classes))
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def _check_values(name: str, part: Examples, levels: int | None) -> None:
    values, dtype = part.values, np.dtype(part.values.dtype)
    if len(values.shape) < 2 or dtype.kind not in "fiu":
        raise ValueError(
            f"{name}: values of shape {values.shape} and type {dtype}: must be "
            "[n, *event], floats or whole numbers"
        )
    if levels is not None and dtype.kind == "f" and part.noise is None:
        raise ValueError(
            f"values of type {dtype} with levels={levels}: stored values are integers "
            "from 0; floats have levels=None"
        )
    if levels is None and dtype.kind != "f":
        raise ValueError(
            f"{name}: values of type {dtype} without levels: images of 8 bits have "
            "levels=256; other numbers are floats, scaled"
        )
    if not hasattr(values, "__array__"):  # read later
        return
    values = np.asarray(values)
    if dtype.kind == "f":
        array_checks.finite(f"{name}.values", values)
    elif values.min() < 0 or values.max() >= levels:
        raise ValueError(
            f"{name}: values up to {values.max()}, from {values.min()}: must be below "
            f"levels={levels}, and from 0"
        )


def _check_conditions(name: str, part: Examples) -> None:
    found = part.conditions
    if found is None:
        return
    if np.ndim(found) != 2 or len(found) != len(part.labels) or not found.shape[1]:
        raise ValueError(
            f"{name} of shape {np.shape(found)}: must be [{len(part.labels)}, k], a "
            "vector for each example"
        )
    if found.dtype.kind != "f":
        raise ValueError(f"{name} of type {found.dtype}: must be floats")
    array_checks.finite(name, np.asarray(found))


def _check_mask(name: str, part: Examples) -> None:
    found, shape = part.mask, part.values.shape
    if found is None:
        return
    fits = np.ndim(found) == len(shape) and len(found) == shape[0]
    if not fits or not _broadcasts(found.shape, shape) or found.dtype != bool:
        raise ValueError(
            f"{name} of shape {np.shape(found)} and type {found.dtype}: must be bool, "
            f"{list(shape)}, or 1 along an axis of an event where it is the same"
        )
    empty = np.flatnonzero(~np.asarray(found).reshape(len(found), -1).any(1))
    if len(empty):
        raise ValueError(
            f"{name} is False everywhere for {len(empty)} examples, the first of them "
            f"number {empty[0]}: leave these out"
        )


def _broadcasts(shape: Collection[int], like: Collection[int]) -> bool:
    return all(one in (1, size) for one, size in zip(shape, like, strict=True))


def _check_noise(name: str, part: Examples) -> None:
    found, shape = part.noise, part.values.shape
    if found is None:
        return
    if found.shape != shape or found.dtype != np.float32:
        raise ValueError(
            f"noise of shape {found.shape} and type {found.dtype}: must be float32 of "
            f"the shape {shape} of the values"
        )
    if hasattr(found, "__array__"):
        array_checks.finite(name, np.asarray(found))


def _check_alike(dataset: DataSet) -> None:
    """Raises a `ValueError` unless examples of both parts are of one shape."""
    drawn = dataset.augment_fn is not None  # perhaps of moments, which are others
    pairs = zip(Examples._fields, dataset.train, dataset.test, strict=True)
    for name, one, other in pairs:
        if (one is None) != (other is None):
            raise ValueError(f"one part has {name}, the other none: must be alike")
        if one is None or name == "mask" or (name == "values" and drawn):
            continue
        if one.shape[1:] != other.shape[1:]:
            raise ValueError(
                f"{name} of shape {list(one.shape[1:])} each in train, and "
                f"{list(other.shape[1:])} in test: must be of one shape"
            )
