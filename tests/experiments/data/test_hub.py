"""Data sets by name, with stand-ins for the packages: `data/hub.py`."""

import io
import sys
import types

import numpy as np
import pytest
from PIL import Image

from experiments.config import build
from experiments.data import hub
from experiments.data.image_format import ImageFormat
from experiments.data.loader import Batches, iterate
from experiments.runtime.errors import UsageError
from tests.helpers.pictures import png16

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
def labels():
    """Of both parts; a test may exchange some."""
    return [*LABELS]


def as_scalar(label):
    return np.int64(label) if isinstance(label, int) else label


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
        (IMAGES[1].astype(np.uint16), "colours of 16 bits in an array"),
        (GREY.astype(np.uint16), "mode I;16, 16 bits in the file: bits=16 reads"),
        (IMAGES[1].astype(np.int64), "type int64: must be uint8"),
        (IMAGES[1] > 127, "type bool: must be uint8"),
        ((IMAGES[1] + 1.0).tolist(), "type float64: must be uint8"),
        ((IMAGES[1] + np.int64(255)).tolist(), "type int64: must be uint8"),
        (
            IMAGES[1].transpose(2, 0, 1),
            r"axes \[3, 4, 6\]: the channels must be the la",
        ),
        (np.dstack([IMAGES[1], GREY]), "4 channels, RGBA or CMYK, which an array does"),
        ("cats/1.png", "a text, 'cats/1.png': make the column one of pictures"),
        ([Image.fromarray(GREY)] * 2, "2 pictures in a row: one is read"),
        (Image.fromarray(GREY.astype(np.uint16)), "mode I;16, 16 bits in the file"),
        (Image.fromarray(GREY.astype(np.float32)), "mode F: convert it to 8 bits"),
        (None, "no picture, which is None"),
        (
            Image.fromarray(np.dstack([IMAGES[1], GREY])),
            "mode RGBA, transparent: put it on a background",
        ),
        (png16(IMAGES[1].astype(np.uint16)), "mode RGB, 16 bits in the file"),
        (b"GIF", "no image, or its beginning is corrupted"),
        (b"", "empty"),
    ],
    ids=lambda value: value[:12] if isinstance(value, str) else "",
)
def test_images_that_would_lose_something_are_refused(
    package, wrong, said, request, images
):
    request.getfixturevalue(package)
    images[1] = wrong
    where = r"split 'train', image='image': no readable image: 1 of 3: row 1 \("
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
def test_all_rows_are_decoded_before_the_first_step(package, request, images):
    request.getfixturevalue(package)
    images[1], images[2], images[4] = None, corrupted(), corrupted()
    said = r"split 'train', .* 2 of 3: row 1 \(no picture.*\), row 2 \(.*truncated"
    with pytest.raises(UsageError, match=said) as error:
        load(package)
    assert "leave it out with skip_broken=True" in str(error.value)
    assert "\n" not in str(error.value)


@PACKAGES
def test_broken_rows_are_left_out_on_request(package, request, images, capsys):
    request.getfixturevalue(package)
    whole = load(package, label="").identity()
    images[1] = None
    found = load(package, skip_broken=True, label="")
    assert "left out 1 of 3: row 1 (no picture" in capsys.readouterr().out
    np.testing.assert_array_equal(found.train.gather([0, 1]).values, IMAGES[[0, 2]])
    identity = found.identity()
    assert identity["num_train"] == 2 and whole["num_train"] == 3
    assert identity["skipped"]["count"] == 1
    assert identity["skipped"]["first"] == ["row 1"]
    assert "skipped" not in whole
    said = "of 3 classes 1 have no example, the first 0"  # that of row 1
    with pytest.raises(UsageError, match=said):
        load(package, skip_broken=True)
    images[0] = images[2] = None
    with pytest.raises(UsageError, match="split 'train', .*: no row is left"):
        load(package, skip_broken=True, label="")


@PACKAGES
def test_a_row_that_breaks_later_is_named_through_the_reader(package, request, images):
    request.getfixturevalue(package)
    found = load(package)
    rows = found.train.values
    broken = rows.row
    rows.row = lambda number: broken(number) if number != 2 else breaks()
    with pytest.raises(UsageError, match="row 2 breaks") as error:
        next(iterate(Batches(found.train, seed=0, batch_size=3), 0))
    assert "\n" not in str(error.value)


def breaks():
    raise UsageError("row 2 breaks")


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


@PACKAGES
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_files_of_pictures_are_turned(package, orientation, request, images):
    request.getfixturevalue(package)
    exif, stream = Image.Exif(), io.BytesIO()
    exif[0x0112] = orientation
    stored = IMAGES[1]
    Image.fromarray(stored).save(stream, "png", exif=exif)
    images[1] = stream.getvalue()
    turns = {1: 0, 3: 2, 6: -1, 8: 1}[orientation]
    shown = np.rot90(stored, turns)
    images[:] = [shown if n != 1 else images[1] for n in range(5)]
    found = load(package, size=shown.shape[:2])
    np.testing.assert_array_equal(found.train.values.row(1), shown)


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


def test_rows_that_are_known_are_not_decoded_again(monkeypatch, tmp_path):
    """By the files that `datasets` has them in; without these always."""
    (tmp_path / "train.arrow").write_bytes(b"rows")
    seen, files = [], [{"filename": str(tmp_path / "train.arrow")}]
    check = ImageFormat.check
    counted = lambda self, source: seen.append(1) or check(self, source)
    monkeypatch.setattr(ImageFormat, "check", counted)

    class Filed(Table):
        cache_files = files

    rows = [{"image": Image.fromarray(GREY), "label": n} for n in range(2)]
    module = types.SimpleNamespace(load_dataset=lambda path, split: Filed(rows))
    monkeypatch.setitem(sys.modules, "datasets", module)
    for count in (4, 4):
        load("huggingface")
        assert len(seen) == count
    (tmp_path / "train.arrow").write_bytes(b"other rows")
    load("huggingface")
    assert len(seen) == 8
    files.clear()
    load("huggingface")
    load("huggingface")
    assert len(seen) == 16
