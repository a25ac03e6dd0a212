"""Data sets by name, as stand-ins for their packages give them."""

import numpy as np
import pytest

from experiments.config import build

PACKAGES = pytest.mark.parametrize("package", ["huggingface", "tfds"])


IMAGES = np.random.RandomState(0).randint(0, 256, (5, 4, 6, 3), np.uint8)


GREY = IMAGES[1, :, :, 0]


LABELS = [2, 0, 1, 1, 0]


class Table(list):
    """A list of dicts whose columns can be asked for by name, as `datasets` has it."""

    def __getitem__(self, key):
        if isinstance(key, str):
            return [row[key] for row in self]
        return super().__getitem__(key)


def as_scalar(label):
    return np.int64(label) if isinstance(label, int) else label


def load(package, **arguments):
    name = {"huggingface": "path", "tfds": "dataset"}[package]
    section = {"name": package, name: "cats", "size": (4, 6)}
    return build.dataset(section | arguments)
