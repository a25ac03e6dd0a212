"""What samples are conditioned on: labels in turn, and vectors where data have any."""

import hashlib
from typing import Any, NamedTuple

import numpy as np

from experiments.data.base import Examples


class Conditions(NamedTuple):
    """Of samples, in order.

    Fields:
      labels: int32 [n].
      vectors: float32 [n, k], or None where the data have none.
    """

    labels: Any
    vectors: Any = None

    def part(self, start: int, stop: int) -> "Conditions":
        """Returns the conditions of the samples `start` to `stop - 1`."""
        return Conditions(*(None if one is None else one[start:stop] for one in self))

    def at(self, number: np.ndarray) -> "Conditions":
        """Returns the conditions of the samples `number`."""
        return Conditions(*(None if one is None else one[number] for one in self))

    def settings(self) -> dict[str, str]:
        """Returns the digest of the vectors, which tells different ones apart."""
        if self.vectors is None:
            return {}
        digest = hashlib.sha256(np.ascontiguousarray(self.vectors).tobytes())
        return {"conditions": digest.hexdigest()[:16]}


def labels_in_turn(count: int, num_classes: int) -> np.ndarray:
    """Makes class labels 0, 1, ... in turn, int32 [count]; zeros without classes."""
    return (np.arange(count) % max(1, num_classes)).astype(np.int32)


def by_class(per_class: int, num_classes: int) -> np.ndarray:
    """Makes `per_class` labels of each class, class after class: one class a row.

    Data without classes have one row of zeros.
    """
    return np.repeat(np.arange(max(1, num_classes), dtype=np.int32), per_class)


def of_pictures(held_out: Examples, num_classes: int, per_class: int) -> Conditions:
    """Makes the conditions of pictures in training: each class, or held-out vectors.

    Args:
      held_out: examples of the run.
      num_classes: of the data.
      per_class: samples of each class.
    """
    labels = by_class(per_class, num_classes)
    if held_out.conditions is None:
        return Conditions(labels)
    return of_examples(held_out, len(labels))


def of_examples(examples: Examples, count: int) -> Conditions:
    """Returns labels and vectors of examples, in order and over again."""
    number = np.arange(count) % len(examples.labels)
    return Conditions(examples.labels[number], examples.conditions[number])
