"""Labels of any kind as classes 0..K-1 with names, or a refusal with the way out.

Labels are the integers 0..K-1, each of which some training example has. With
`map_labels` the different labels of the training examples, in order, become these;
they are the names of the classes then, which a run stores.
"""

import difflib
import itertools
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments.data.base import check_labels
from experiments.runtime.errors import UsageError, require

MOST = 100_000  # classes
LISTED = 5  # labels in a message
CLOSE = 3  # names in a message that may have been meant
WAY_OUT = "map_labels=True numbers those there are and keeps them as names"


class Classes(NamedTuple):
    """Labels of a data set.

    Fields:
      train: int32 [n].
      test: int32 [m]; None where there are no held-out examples yet.
      names: of label 0, 1, ...; empty where they have none.
    """

    train: np.ndarray
    test: np.ndarray | None
    names: tuple[str, ...]

    @property
    def num_classes(self) -> int:
        """Of the classes."""
        return int(self.train.max()) + 1


def classes(
    train: Any,
    test: Any = None,
    *,
    map_labels: bool,
    entry: str = "labels",
    names: Sequence[str] = (),
    test_name: str = "the held-out examples",
) -> Classes:
    """Numbers the classes of labels [n] of integers, words, truth values or numbers.

    Args:
      train: labels of the training examples.
      test: those of the held-out examples, or None.
      map_labels: numbers the different labels of the training examples in order.
      entry: the config's, which has the labels left out where it is empty.
      names: of labels 0, 1, ... where the source has names.
      test_name: for errors.

    Raises:
      ValueError: some are missing, or they are no classes 0..K-1, or an example of the
        held-out part has a class of its own.
    """
    train = _plain(train, entry, "")
    if test is not None:
        test = _plain(test, entry, f"{test_name}: ")
    if not map_labels:
        _check_integers(train, entry, "")
        kinds, named = _all_there(train, names, entry), [*names]
        found = check_labels(train)
        if test is not None:
            _check_integers(test, entry, f"{test_name}: ")
    else:
        kinds, found = _mapped(train)
        named = [_name(kind, names) for kind in kinds]
    if test is not None:
        test = _numbered(test, kinds, test_name, entry)
    return Classes(found, test, tuple(named))


def _mapped(labels: np.ndarray) -> tuple[list[Any], np.ndarray]:
    """Finds the different labels, words in natural order, and each label's place."""
    unique, inverse = np.unique(labels, return_inverse=True)
    kinds = unique.tolist()
    if len(kinds) > MOST:
        raise ValueError(
            f"{len(kinds):,} different labels: at most {MOST:,} classes; numbers to "
            "condition on are `conditions` of an npz"
        )
    if labels.dtype.kind != "U":
        return kinds, inverse.astype(np.int32)
    ordered = sorted(kinds, key=natural)
    place = {kind: number for number, kind in enumerate(ordered)}
    return ordered, np.array([place[kind] for kind in kinds], np.int32)[inverse]


def _name(kind: Any, names: Sequence[str]) -> str:
    """Returns the name of a label: that of the source, or the label itself as text."""
    known = isinstance(kind, int) and 0 <= kind < len(names)
    return names[kind] if known else str(kind)


def _plain(labels: Any, entry: str, where: str) -> np.ndarray:
    """Converts labels to an array [n], and checks that none is missing."""
    if isinstance(labels, (list, tuple)):
        labels = _of_list(labels, entry, where)
    labels = np.asarray(labels)
    if labels.dtype.kind == "S":
        labels = np.char.decode(labels, "utf-8", "backslashreplace")  # stay different
    if labels.ndim != 1:
        out = "save them as [n]"
        if labels.ndim == 2:
            column = labels.shape[1] == 1
            out = "save labels[:, 0]" if column else "of one-hot rows save argmax(1)"
        raise ValueError(
            f"{where}labels of shape {labels.shape}: must be [n], one for each "
            f"example; {out}"
        )
    if not len(labels) or labels.dtype.kind not in "iubfU":
        raise ValueError(
            f"{where}labels of shape {labels.shape} and type {labels.dtype}: must be "
            "[n] integers, n at least 1"
        )
    if labels.dtype.kind == "f" and not np.isfinite(labels).all():
        bad = np.flatnonzero(~np.isfinite(labels))
        raise _missing(where, len(bad), int(bad[0]), str(labels[bad[0]]), entry)
    return labels


def _of_list(labels: Sequence[Any], entry: str, where: str) -> np.ndarray:
    """Reads labels of a table's column, where None is no label."""
    missing = [number for number, label in enumerate(labels) if label is None]
    if missing:
        raise _missing(where, len(missing), missing[0], "None", entry)
    if any(isinstance(label, (list, tuple, dict)) for label in labels):
        raise ValueError(
            f"{where}several labels a row: one is read; choose another column, or "
            f"{entry}='' for no labels"
        )
    kinds = {type(label) for label in labels}
    if str in kinds and len(kinds) > 1:
        raise ValueError(f"{where}labels of words and of numbers: must be of one kind")
    return np.array(labels)


def _missing(where: str, count: int, first: int, value: str, entry: str) -> ValueError:
    return ValueError(
        f"{where}{count:,} labels are missing, the first in row {first} ({value}): "
        f"remove these rows, or set {entry}='' for no labels"
    )


def _check_integers(labels: np.ndarray, entry: str, where: str) -> None:
    """Raises a ValueError unless labels are integers from 0 on."""
    kind = labels.dtype.kind
    if kind not in "iu":
        words = {"U": "words", "b": "truth values", "f": "floats"}[kind]
        raise ValueError(
            f"{where}labels of type {labels.dtype}, {words} such as "
            f"{labels[0].item()!r}: must be integers from 0; {WAY_OUT}, and {entry}='' "
            "leaves them out"
        )
    below = labels[labels < 0]
    if len(below):
        raise ValueError(
            f"{where}labels from {labels.min()} to {labels.max()}, {len(below):,} of "
            "them negative, as examples without a class have: remove these or choose "
            f"another part; {entry}='' leaves labels out; {WAY_OUT}"
        )


def _all_there(labels: np.ndarray, names: Sequence[str], entry: str) -> list[int]:
    """Checks that each of the classes 0..K-1 has an example, and returns them.

    Args:
      labels: integers from 0.
      names: of all classes; empty where the labels alone say which there are.
      entry: of the config, for errors.

    Raises:
      ValueError: one has none.
    """
    there = np.unique(labels)
    count = len(names) or int(there[-1]) + 1
    if names and there[-1] >= count:
        raise ValueError(
            f"label {there[-1]}: must be below {count}, the number of class names"
        )
    if len(there) == count:
        return there.tolist()
    known = {*there.tolist()}
    gaps = (number for number in itertools.count() if number not in known)
    empty = [*itertools.islice(gaps, min(LISTED, count - len(there)))]
    shown = ", ".join(repr(names[number]) if names else str(number) for number in empty)
    raise ValueError(
        f"labels {_range(there.tolist())}: of {count:,} classes {count - len(there):,} "
        f"have no example, the first {shown}; {WAY_OUT}, and {entry}='' leaves labels "
        "out"
    )


def _range(there: Sequence[Any]) -> str:
    shown = [str(label) for label in there[:LISTED]]
    more = [f"... {there[-1]}"] if len(there) > LISTED else []
    return ", ".join(shown + more)


def _numbered(
    test: np.ndarray, kinds: Sequence[Any], test_name: str, entry: str
) -> np.ndarray:
    """Finds the places of labels among `kinds`.

    Raises:
      ValueError: held-out examples have a class that no training example has.
    """
    lookup = {kind: number for number, kind in enumerate(kinds)}
    found = [lookup.get(label, -1) for label in test.tolist()]
    unknown = [number for number, place in enumerate(found) if place < 0]
    if unknown:
        raise ValueError(
            f"{test_name}: label {test[unknown[0]].item()!r}, and {len(unknown):,} "
            f"labels in all, are none of training, which has {_range(kinds)}; remove "
            f"these, choose another part, or set {entry}='' for no labels"
        )
    return np.array(found, np.int32)


def class_number(label: int | str, num_classes: int, names: Sequence[str]) -> int:
    """Finds the number of a class that is given by its number or by its name.

    A whole number is the number of a class, whatever the names are.

    Args:
      label: the number, as an integer or in decimal digits, or the name.
      num_classes: of the data; 0 for data without classes.
      names: of the classes; empty where they have none.

    Raises:
      UsageError: the data have no such class; it names the nearest ones.
    """
    whole = re.fullmatch("[+-]?[0-9]{1,18}", str(label))
    label = int(label) if whole else label
    if not num_classes:
        require("label", label, False, "left out: the data have no classes")
    within = f"in 0..{num_classes - 1}, the classes of the data"
    if isinstance(label, int):
        require("label", label, 0 <= label < num_classes, within)
        return label
    require("label", label, bool(names), f"{within}, which have no names")
    if label in names:
        return names.index(label)
    near = difflib.get_close_matches(label, names, n=CLOSE, cutoff=0.5)
    hint = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
    raise UsageError(
        f"label={label!r}: no class has this name; {hint}known: {_range(names)}, "
        f"or a number in 0..{num_classes - 1}"
    )


def natural(name: str) -> tuple:
    """Makes a key that sorts whole numbers in names by their values."""
    words, digits = re.split("[0-9]+", name), re.findall("[0-9]+", name)
    return words[0], [*zip(map(int, digits), words[1:], strict=True)], name
