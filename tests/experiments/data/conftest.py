"""Stand-ins for the packages of data sets by name."""

import sys
import types

import pytest
from PIL import Image

from tests.helpers.image_sets import IMAGES, LABELS, Table, as_scalar


@pytest.fixture
def images():
    """Of both parts, as the package gives them; a test may exchange some."""
    return [*IMAGES]


@pytest.fixture
def labels():
    """Of both parts; a test may exchange some."""
    return [*LABELS]


@pytest.fixture
def huggingface(monkeypatch, images, labels):
    images[:] = map(Image.fromarray, IMAGES)

    def load_dataset(path, split):
        if path.rpartition("/")[2] != "cats":
            raise FileNotFoundError(f"no {path}")
        count = {"train": 3, "test": 2, "none": 0}[split]
        first = 0 if split == "train" else 3
        return Table(
            {"image": images[n], "label": labels[n]}
            for n in range(first, first + count)
        )

    module = types.SimpleNamespace(load_dataset=load_dataset)
    monkeypatch.setitem(sys.modules, "datasets", module)


@pytest.fixture
def tfds(monkeypatch, images, labels):
    def as_data_source(split, decoders=None):
        chosen = {"train": slice(0, 3), "test": slice(3, 5), "none": slice(0)}[split]
        shown = [None] * 5 if decoders else images
        return [
            {"image": image, "label": as_scalar(label)}
            for image, label in list(zip(shown, labels, strict=True))[chosen]
        ]

    def builder(name, data_dir, file_format):
        assert (name, data_dir, file_format) == ("cats", None, "array_record")
        return types.SimpleNamespace(as_data_source=as_data_source)

    decode = types.SimpleNamespace(SkipDecoding=lambda: "skip")
    module = types.SimpleNamespace(builder=builder, decode=decode)
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", module)
