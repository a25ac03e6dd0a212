"""Data sets by name, with stand-ins for the packages: `data/hub.py`."""

import io
import sys
import types

import numpy as np
import pytest
from PIL import Image

from experiments import data
from experiments.config import build
from experiments.data import hub
from experiments.data.loader import Batches, iterate
from experiments.runtime.errors import UsageError

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


@pytest.fixture
def images():
    """Of both parts, as the package gives them; a test may exchange some."""
    return [*IMAGES]


@pytest.fixture
def huggingface(monkeypatch, images):
    images[:] = map(Image.fromarray, IMAGES)

    def load_dataset(path, split):
        if path.rpartition("/")[2] != "cats":
            raise FileNotFoundError(f"no {path}")
        count = {"train": 3, "test": 2}[split]
        first = 0 if split == "train" else 3
        return Table(
            {"image": images[n], "label": LABELS[n]}
            for n in range(first, first + count)
        )

    module = types.SimpleNamespace(load_dataset=load_dataset)
    monkeypatch.setitem(sys.modules, "datasets", module)


@pytest.fixture
def tfds(monkeypatch, images):
    def as_data_source(split, decoders=None):
        chosen = slice(0, 3) if split == "train" else slice(3, 5)
        shown = [None] * 5 if decoders else images
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


def load(package, **arguments):
    name = {"huggingface": "path", "tfds": "dataset"}[package]
    section = {"name": package, name: "cats", "size": (4, 6)}
    return build.dataset(section | arguments)


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


@PACKAGES
@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (IMAGES[1] / np.float32(255), "type float32: must be uint8; .*npz"),
        (IMAGES[1].astype(np.uint16), "type uint16: must be uint8; .*npz"),
        (IMAGES[1].astype(np.int64), "type int64: must be uint8"),
        (IMAGES[1] > 127, "type bool: must be uint8"),
        ((IMAGES[1] + 1.0).tolist(), "type float64: must be uint8"),
        ((IMAGES[1] + np.int64(255)).tolist(), "type int64: must be uint8"),
        (None, "type object: must be uint8"),
        (Image.fromarray(GREY.astype(np.uint16)), "mode I;16, .*convert it to 8 bits"),
        (Image.fromarray(GREY.astype(np.float32)), "mode F, .*convert it to 8 bits"),
        (Image.fromarray(IMAGES[1]).convert("RGBA"), "mode RGBA, .*convert it"),
        (Image.fromarray(IMAGES[1]).convert("RGBA").quantize(), "mode P, or transp"),
    ],
)
def test_images_that_would_lose_something_are_refused(
    package, wrong, said, request, images
):
    request.getfixturevalue(package)
    images[1] = wrong
    where = "split 'train', row 1, image='image': ValueError: "
    with pytest.raises(UsageError, match=where + said) as error:
        load(package)
    assert "\n" not in str(error.value)


@PACKAGES
def test_images_of_8_bits_and_fewer_are_read_as_they_are(package, request, images):
    request.getfixturevalue(package)
    colours = IMAGES[1] // 128 * 255  # 8 of them
    of_colours = Image.fromarray(colours)
    for given, expected in [
        (IMAGES[1].tolist(), IMAGES[1]),
        (GREY, np.stack([GREY] * 3, -1)),
        (GREY[..., None], np.stack([GREY] * 3, -1)),
        (Image.fromarray(GREY), np.stack([GREY] * 3, -1)),
        (Image.fromarray(GREY > 127), np.stack([np.where(GREY > 127, 255, 0)] * 3, -1)),
        (of_colours.quantize(8, dither=Image.Dither.NONE), colours),
    ]:
        images[1] = given
        np.testing.assert_array_equal(load(package).train.values.row(1), expected)
    images[1] = GREY[:, :1]
    row = load(package, size=(4, 1)).train.values.row(1)
    np.testing.assert_array_equal(row, np.stack([GREY[:, :1]] * 3, -1))


@PACKAGES
def test_a_row_that_breaks_later_is_named_through_the_reader(
    package, request, images, monkeypatch
):
    request.getfixturevalue(package)
    monkeypatch.setattr(hub, "SAMPLED", 1)
    images[2] = corrupted()
    batches = Batches(load(package).train, seed=0, batch_size=3)
    with pytest.raises(
        UsageError, match="split 'train', row 2, .*: OSError: "
    ) as error:
        next(iterate(batches, 0))
    assert "\n" not in str(error.value)


def corrupted():
    """A file that can be opened, but not read to its end."""
    stream = io.BytesIO()
    Image.fromarray(IMAGES[2]).save(stream, "png")
    return Image.open(io.BytesIO(stream.getvalue()[:60]))


@PACKAGES
@pytest.mark.parametrize("number", [1, 4])
def test_other_pixels_are_other_examples(package, number, request, images):
    """In either part, with the same name and labels."""
    request.getfixturevalue(package)
    first = load(package).identity()
    assert load(package).identity() == first
    images[number] = 255 - IMAGES[number]
    now = load(package).identity()
    assert now["contents"] != first["contents"]
    assert now["digest"] == first["digest"]


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
        ({"label": "fine"}, "label='fine': KeyError"),
        ({"image": "picture"}, "image='picture': KeyError"),
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
        ("datasets", lambda: data.huggingface(path="a", size=(4, 4)), "datasets"),
        (
            "tensorflow_datasets",
            lambda: data.tfds(dataset="a", size=(4, 4)),
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
