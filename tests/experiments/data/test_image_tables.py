"""Images of data sets by name: `data/image_tables.py`."""

import io
import sys
import types

import numpy as np
import pytest
from PIL import Image

from experiments.data.image_format import ImageFormat
from experiments.data.loader import Batches
from experiments.data.read_ahead import iterate
from experiments.runtime.errors import UsageError
from tests.helpers.image_sets import GREY, IMAGES, PACKAGES, Table, load
from tests.helpers.pictures import png16


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
        ([Image.fromarray(GREY)] * 2, "2 pictures in one row: must be one"),
        (Image.fromarray(GREY.astype(np.uint16)), "mode I;16, 16 bits in the file"),
        (Image.fromarray(GREY.astype(np.float32)), "mode F: convert it to 8 bits"),
        (None, "the picture is None, which is missing"),
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
    said = r"split .train., .* 2 of 3: row 1 \(the picture .*\), row 2 \(.*truncated"
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
    assert "left out 1 of 3: row 1 (the picture is None" in capsys.readouterr().out
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
    with pytest.raises(UsageError, match="split 'train', .*: .* leaves out all 3 rows"):
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
