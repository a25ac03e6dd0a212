"""What samples are conditioned on: labels in turn, and vectors of data that have them.

The vectors are those of a file, or of the held-out examples, in order and over again.
"""

import hashlib
import pathlib
from typing import Any, NamedTuple

import numpy as np

from experiments.checkpointing import restore
from experiments.checkpointing.restore import Loaded
from experiments.config.model import Model
from experiments.data import Examples, npz_entries
from experiments.data.regular_file import check_regular
from experiments.runtime.errors import UsageError, naming, require


class Conditions(NamedTuple):
    """Of samples, in order.

    Fields:
      labels: int32 [n].
      vectors: float32 [n, k], or None where the data have none.
    """

    labels: Any
    vectors: Any = None

    def part(self, start: int, stop: int) -> "Conditions":
        """Those of the samples `start` to `stop - 1`."""
        return Conditions(*(None if one is None else one[start:stop] for one in self))

    def at(self, number: np.ndarray) -> "Conditions":
        """Those of the samples `number`."""
        return Conditions(*(None if one is None else one[number] for one in self))

    def settings(self) -> dict[str, str]:
        """The digest of the vectors, by which other ones are noticed."""
        if self.vectors is None:
            return {}
        digest = hashlib.sha256(np.ascontiguousarray(self.vectors).tobytes())
        return {"conditions": digest.hexdigest()[:16]}


def labels_in_turn(count: int, num_classes: int) -> np.ndarray:
    """The classes 0, 1, ... in turn, int32 [count]; zeros where there are none."""
    return (np.arange(count) % max(1, num_classes)).astype(np.int32)


def by_class(per_class: int, num_classes: int) -> np.ndarray:
    """`per_class` labels of each class, class after class: one class a row.

    Data without classes have one row of zeros.
    """
    return np.repeat(np.arange(max(1, num_classes), dtype=np.int32), per_class)


def of_pictures(model: Model, held_out: Examples, per_class: int) -> Conditions:
    """What a picture while training shows: each class, or held-out examples' vectors.

    Args:
      model: of the run.
      held_out: its held-out examples.
      per_class: samples of each class.
    """
    labels = by_class(per_class, model.num_classes)
    if not model.vector_features:
        return Conditions(labels)
    return of_examples(held_out, len(labels))


def of_examples(examples: Examples, count: int) -> Conditions:
    """Labels and vectors of examples, in order and over again."""
    number = np.arange(count) % len(examples.labels)
    return Conditions(examples.labels[number], examples.conditions[number])


def of_samples(loaded: Loaded, held_out: Examples | None = None) -> Conditions:
    """What the samples of a request are conditioned on.

    Args:
      loaded: with a complete request.
      held_out: the held-out examples of the run; None if they are to be read where
        their vectors are asked for.

    Raises:
      UsageError: the data have no vectors and some are given, those given do not fit,
        or the data are not there, or other ones.
    """
    request, model, count = loaded.request, loaded.model, loaded.request.num_samples
    labels = labels_in_turn(count, model.num_classes)
    if request.label is not None:
        labels = np.full(count, request.label, np.int32)
    if not model.vector_features:
        bound = "left out: the data have no conditions"
        require("conditions", request.conditions, request.conditions is None, bound)
        return Conditions(labels)
    if request.conditions is not None:
        vectors = _of_file(request.conditions, loaded)
        return Conditions(labels, vectors[np.arange(count) % len(vectors)])
    if held_out is None:
        held_out = _held_out(loaded)
    found = of_examples(held_out, count)
    return found if request.label is None else found._replace(labels=labels)


def _held_out(loaded: Loaded) -> Examples:
    try:
        return restore.real_data(loaded).test
    except UsageError as error:
        raise UsageError(
            f"{error}; without --conditions=FILE the samples have the conditions of "
            "the held-out examples"
        ) from error


def _of_file(path: str, loaded: Loaded) -> np.ndarray:
    """The vectors of an `.npy`, or of an `.npz` with the entries of the data."""
    suffix = pathlib.Path(path).suffix
    require("conditions", path, suffix in (".npy", ".npz"), "a file .npy or .npz")
    names = loaded.config["data"].get("conditions", npz_entries.DEFAULTS.conditions)
    with naming(f"conditions={path!r}"):
        arrays = npz_entries.read_npz(path) if suffix == ".npz" else read_npy(path)
        if suffix == ".npy":
            names = next(iter(arrays))
        found = npz_entries.conditions(arrays, names)
        if found is None:
            npz_entries.array(arrays, names)
    wanted = loaded.model.vector_features
    if found.shape[1] != wanted:
        raise UsageError(
            f"conditions={path!r}: {found.shape[1]} features each, and those of the "
            f"data have {wanted}"
        )
    return found


def read_npy(path: str) -> dict[str, np.ndarray]:
    try:
        check_regular(path)
        found = np.load(path, allow_pickle=False)
        if not isinstance(found, np.ndarray):
            raise ValueError("it holds several arrays: name it .npz")
        return {"array": found}
    except Exception as error:  # whatever a corrupted file raises
        raise ValueError(f"no readable .npy file: {error}") from error
