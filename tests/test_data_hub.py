"""Data sets by name, with stand-ins for the packages: `experiments/data/hub.py`."""

import sys
import types

import numpy as np
import pytest
from PIL import Image

from experiments import build, data
from experiments.errors import UsageError

IMAGES = np.random.RandomState(0).randint(0, 256, (5, 4, 6, 3), np.uint8)
LABELS = [2, 0, 1, 1, 0]


class Table(list):
    """A list of dicts whose columns can be asked for by name, as `datasets` has it."""

    def __getitem__(self, key):
        if isinstance(key, str):
            return [row[key] for row in self]
        return super().__getitem__(key)


@pytest.fixture
def huggingface(monkeypatch):
    def load_dataset(path, split):
        if path != "cats":
            raise FileNotFoundError(f"no {path}")
        count = {"train": 3, "test": 2}[split]
        first = 0 if split == "train" else 3
        return Table(
            {"image": Image.fromarray(IMAGES[n]), "label": LABELS[n]}
            for n in range(first, first + count)
        )

    module = types.SimpleNamespace(load_dataset=load_dataset)
    monkeypatch.setitem(sys.modules, "datasets", module)


@pytest.fixture
def tfds(monkeypatch):
    def as_data_source(split, decoders=None):
        chosen = slice(0, 3) if split == "train" else slice(3, 5)
        shown = [None] * 5 if decoders else IMAGES
        return [
            {"image": image, "label": np.int64(label)}
            for image, label in list(zip(shown, LABELS, strict=True))[chosen]
        ]

    def builder(name, data_dir, file_format):
        assert (name, data_dir, file_format) == ("cats", None, "array_record")
        return types.SimpleNamespace(as_data_source=as_data_source)

    decode = types.SimpleNamespace(SkipDecoding=lambda: "skip")
    module = types.SimpleNamespace(builder=builder, decode=decode)
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", module)


@pytest.mark.parametrize(
    ("package", "source"),
    [
        ("huggingface", {"name": "huggingface", "path": "cats"}),
        ("tfds", {"name": "tfds", "dataset": "cats"}),
    ],
)
def test_a_named_set_has_its_images_labels_and_parts(package, source, request):
    request.getfixturevalue(package)
    found = build.dataset(source | {"size": (4, 6)})
    assert (found.event_shape, found.num_classes) == ((4, 6, 3), 3)
    train, test = found.train.gather([2, 0]), found.test.gather([1])
    np.testing.assert_array_equal(train.values, IMAGES[[2, 0]])
    assert train.labels.tolist() == [1, 2]
    np.testing.assert_array_equal(test.values, IMAGES[[4]])
    assert test.labels.tolist() == [0]


def test_an_unknown_set_is_one_line(huggingface):
    with pytest.raises(UsageError, match="path='dogs'.*no dogs"):
        build.dataset({"name": "huggingface", "path": "dogs", "size": (4, 6)})


@pytest.mark.parametrize("package", ["huggingface", "tfds"])
@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"label": "fine"}, "label='fine': KeyError"),
        ({"image": "picture"}, "image='picture': KeyError"),
        ({"channels": 4}, "channels=4: must be 1 or 3"),
        ({"size": (4,)}, r"size=\(4,\): must be \(height, width\)"),
    ],
)
def test_a_wrong_argument_is_one_line(package, wrong, words, request):
    request.getfixturevalue(package)
    name = {"huggingface": "path", "tfds": "dataset"}[package]
    with pytest.raises(UsageError, match=words) as error:
        build.dataset({"name": package, name: "cats", "size": (4, 6)} | wrong)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("module", "load", "packages"),
    [
        ("datasets", lambda: data.huggingface(path="a", size=(4, 4)), "datasets"),
        (
            "tensorflow_datasets",
            lambda: data.tfds(dataset="a", size=(4, 4)),
            "tensorflow-datasets array_record",
        ),
    ],
)
def test_a_missing_package_says_how_to_install_it(module, load, packages, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ValueError, match=f"{module}.* pip install {packages}$"):
        load()
