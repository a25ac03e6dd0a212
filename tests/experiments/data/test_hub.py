"""Data sets by name, with stand-ins for the packages: `data/hub.py`."""

import sys
import types

import numpy as np
import pytest
from PIL import Image

from experiments.config import build
from experiments.data import hub
from experiments.runtime.errors import UsageError
from tests.helpers.image_sets import GREY, IMAGES, PACKAGES, Table, load
from tests.helpers.pictures import png16


@PACKAGES
def test_a_named_set_has_its_images_labels_and_parts(package, request):
    request.getfixturevalue(package)
    found = load(package)
    assert (found.event_shape, found.num_classes) == ((4, 6, 3), 3)
    train, test = found.train.gather([2, 0]), found.test.gather([1])
    np.testing.assert_array_equal(train.values, IMAGES[[2, 0]])
    assert train.labels.tolist() == [1, 2]
    np.testing.assert_array_equal(test.values, IMAGES[[4]])
    assert test.labels.tolist() == [0]


def test_a_directory_may_move_and_a_name_may_not(huggingface, tmp_path, monkeypatch):
    contents = lambda path: load("huggingface", path=path).identity()["contents"]
    for name in ("here", "there"):
        (tmp_path / name / "cats").mkdir(parents=True)
    here = contents(f"{tmp_path}/here/cats")
    assert contents(f"{tmp_path}/there/cats") == here
    assert len({here, contents("cats"), contents("someone/cats")}) == 3
    monkeypatch.chdir(tmp_path / "here")
    assert contents("cats") == here


def test_a_directory_does_not_change_a_set_by_name(tfds, tmp_path, monkeypatch):
    first = load("tfds").identity()
    (tmp_path / "cats").mkdir()
    monkeypatch.chdir(tmp_path)
    assert load("tfds").identity() == first


def test_an_unknown_set_is_one_line(huggingface):
    with pytest.raises(UsageError, match="path='dogs'.*no dogs"):
        build.dataset({"name": "huggingface", "path": "dogs", "size": (4, 6)})


@PACKAGES
@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"label": "fine"}, "no column label='fine'; known: image, label, label=''"),
        ({"image": "images"}, "no column image='images'; did you mean 'image'"),
        ({"train_split": "none"}, "split 'none': no rows"),
        ({"bits": 12}, "bits=12: must be 8 or 16"),
        ({"channels": 4}, "channels=4: must be 1 or 3"),
        ({"size": (4,)}, r"size=\(4,\): must be \(height, width\)"),
    ],
)
def test_a_wrong_argument_is_one_line(package, wrong, words, request):
    request.getfixturevalue(package)
    with pytest.raises(UsageError, match=words) as error:
        load(package, **wrong)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("module", "load_fn", "packages"),
    [
        ("datasets", lambda: hub.huggingface(path="a", size=(4, 4)), "datasets"),
        (
            "tensorflow_datasets",
            lambda: hub.tfds(dataset="a", size=(4, 4)),
            "tensorflow-datasets array_record",
        ),
    ],
)
def test_a_missing_package_says_how_to_install_it(
    module, load_fn, packages, monkeypatch
):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ValueError, match=f"{module}.* pip install {packages}$"):
        load_fn()


@PACKAGES
@pytest.mark.parametrize(
    ("number", "label", "said"),
    [
        (1, None, "split 'train': 1 labels are missing, the first in row 1"),
        (4, None, "split 'test': 1 labels are missing, the first in row 1"),
        (4, -1, "split 'test': labels from -1 to 1, 1 of them negative, as examples w"),
        (4, 7, "split 'test': label 7, and 1 labels in all, are none of training"),
        (0, 9, "split 'train': labels 0, 1, 9: of 10 classes 7 have no example"),
        (0, 2**31, "split 'train': labels 0, 1, 2147483648: of 2,147,483,649 classes"),
    ],
)
def test_labels_that_are_no_classes_are_refused(
    package, number, label, said, request, labels
):
    request.getfixturevalue(package)
    labels[number] = label
    with pytest.raises(UsageError, match=said) as error:
        load(package)
    assert "label=''" in str(error.value) and "\n" not in str(error.value)
    assert load(package, label="").num_classes == 0


@PACKAGES
def test_labels_of_words_are_mapped_on_request(package, request, labels):
    request.getfixturevalue(package)
    labels[:] = ["dog", "cat", "emu", "emu", "cat"]
    said = "split 'train': labels of type <U3, words such as 'dog'.*map_labels=True"
    with pytest.raises(UsageError, match=said):
        load(package)
    found = load(package, map_labels=True)
    assert found.class_names == ("cat", "dog", "emu") and found.num_classes == 3
    assert found.train.labels.tolist() == [1, 0, 2]
    assert found.test.labels.tolist() == [2, 0]
    assert found.identity()["class_names"] == ["cat", "dog", "emu"]


class Feature:
    """Stands for `datasets.Image` and `datasets.ClassLabel`."""

    def __init__(self, decode=True, names=None):
        self.decode, self.names = decode, names


def test_hugging_face_hands_over_the_files_as_they_are(monkeypatch, tmp_path):
    """Bytes, or a path; what the package would decode loses the second 8 bits."""
    deep = np.random.RandomState(1).randint(0, 65536, (4, 6, 3)).astype(np.uint16)
    (tmp_path / "1.png").write_bytes(png16(deep))
    rows = [
        {"bytes": png16(deep), "path": None},
        {"bytes": None, "path": str(tmp_path / "1.png")},
    ]

    class Typed(Table):
        features = types.MappingProxyType(
            {"image": Feature(), "label": Feature(names=["cat", "dog"])}
        )
        cache_files = ()

        def cast_column(self, name, feature):
            assert (name, feature.decode) == ("image", False)
            return Table({"image": row, "label": 0} for row in rows)

    load_dataset = lambda path, split: Typed(
        {"image": Image.fromarray(GREY), "label": n} for n in range(2)
    )
    module = types.SimpleNamespace(load_dataset=load_dataset, Image=Feature)
    monkeypatch.setitem(sys.modules, "datasets", module)
    with pytest.raises(UsageError, match="2 of 2: row 0 .*16 bits in the file.*row 1"):
        load("huggingface")
    found = load("huggingface", bits=16)
    assert found.class_names == ("cat", "dog") and found.transform.levels is None
    for row in range(2):
        expected = deep / 65535 * 2 - 1
        np.testing.assert_allclose(found.train.values.row(row), expected, atol=1e-6)
    for row in rows:  # which the package opens itself
        row.update(bytes=None, path="zip://1.png::cats.zip")
    opened = load("huggingface", channels=1).train.values.row(1)
    np.testing.assert_array_equal(opened[..., 0], GREY)


@pytest.mark.parametrize("map_labels", [False, True])
def test_a_class_of_which_there_is_no_row_is_named(monkeypatch, map_labels):
    class Typed(Table):
        features = types.MappingProxyType({"label": Feature(names=["cat", "dog"])})

    load_dataset = lambda path, split: Typed(
        {"image": Image.fromarray(GREY), "label": 1} for n in range(2)
    )
    module = types.SimpleNamespace(load_dataset=load_dataset, Image=Feature)
    monkeypatch.setitem(sys.modules, "datasets", module)
    if map_labels:
        found = load("huggingface", map_labels=True)
        assert (found.num_classes, found.class_names) == (1, ("dog",))
    else:
        with pytest.raises(UsageError, match="no example, the first 'cat'; map_labels"):
            load("huggingface")


@PACKAGES
def test_labels_are_looked_at_before_the_images(package, request, images, labels):
    request.getfixturevalue(package)
    images[1], labels[0] = None, 9
    with pytest.raises(UsageError, match="of 10 classes 7 have no example"):
        load(package)


def test_tfds_hands_over_the_files_as_they_are(monkeypatch, tmp_path):
    """Its own decoding would lose the second 8 bits, and the orientation."""
    deep = np.random.RandomState(1).randint(0, 65536, (4, 6, 3)).astype(np.uint16)

    def as_data_source(split, decoders=None):
        image = png16(deep) if decoders == {"image": "skip"} else IMAGES[0]
        return [{"image": image, "label": np.int64(n)} for n in range(2)]

    builder = types.SimpleNamespace(
        as_data_source=as_data_source,
        data_path=tmp_path,
        info=types.SimpleNamespace(
            features={"image": Feature(), "label": Feature(names=["cat", "dog"])}
        ),
    )
    decode = types.SimpleNamespace(SkipDecoding=lambda: "skip")
    module = types.SimpleNamespace(builder=lambda *_, **__: builder, decode=decode)
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", module)
    with pytest.raises(UsageError, match="2 of 2: row 0 .*16 bits in the file"):
        load("tfds")
    found = load("tfds", bits=16)
    assert found.class_names == ("cat", "dog")
    expected = deep / 65535 * 2 - 1
    np.testing.assert_allclose(found.train.values.row(1), expected, atol=1e-6)
