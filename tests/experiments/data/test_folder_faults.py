"""Folders with broken, odd and unreadable files: `data/image_folder.py`."""

import json
import os
import pathlib
import re
import shutil
import time

import numpy as np
import pytest
from PIL import Image

from experiments.config import build
from experiments.data import image_check, image_decoding, image_folder, image_listing
from experiments.data.image_format import ImageFormat
from experiments.runtime.errors import UsageError
from tests.helpers.pictures import png16

RNG = np.random.RandomState(0)
COUNT = 12


def write(path, count=COUNT, suffix="png", shape=(8, 8, 3)):
    path.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        pixels = RNG.randint(0, 256, shape, np.uint8)
        Image.fromarray(pixels).save(path / f"{number:03d}.{suffix}")


def load(path, **more):
    return build.dataset({"name": "folder", "path": str(path)} | more)


def refusal(path, **more):
    with pytest.raises(UsageError) as caught:
        load(path, **more)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def half(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flipped(path):
    """One bit of the pixels of a PNG, which its checksum notices."""
    content = bytearray(path.read_bytes())
    content[content.index(b"IDAT") + 40] ^= 1
    path.write_bytes(content)


def replaced(make):
    def fault(path):
        path.unlink()
        make(path)

    return fault


def of_16_bits(path):
    path.write_bytes(png16(np.zeros((8, 8, 3), np.uint16)))


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (half, "truncated|Truncated"),
        (flipped, "broken PNG|bad header checksum"),
        (replaced(pathlib.Path.touch), "an empty file"),
        (replaced(pathlib.Path.mkdir), "a folder, not a file"),
        (replaced(os.mkfifo), "a pipe or device, not a file"),
        (replaced(lambda path: path.symlink_to("gone")), "a link to nothing"),
        (lambda path: path.write_bytes(b"<html>"), "no image, or its beginning is"),
    ],
    ids=["half", "bit", "empty", "folder", "pipe", "link", "page"],
)
@pytest.mark.parametrize("skip_broken", [False, True])
@pytest.mark.parametrize("size", [None, (4, 4)])
def test_broken_files_are_all_named_before_the_first_step(
    tmp_path, fault, said, skip_broken, size, capsys
):
    write(tmp_path)
    for number in (3, 9):
        fault(tmp_path / f"{number:03d}.png")
    more = {} if size is None else {"size": size}
    listed = rf"2 of 12: 003.png \(.*({said}).*\), 009.png \(.*({said})"
    if not skip_broken:
        line = refusal(tmp_path, **more)
        assert re.search(listed, line) and "skip_broken=True" in line
        return
    found = load(tmp_path, skip_broken=True, **more)
    assert re.search(f"left out {listed}", capsys.readouterr().out)
    assert len(found.train.labels) + len(found.test.labels) == 10
    found.train.gather(np.arange(len(found.train.labels)))
    skipped = found.identity()["skipped"]
    assert (skipped["count"], skipped["first"]) == (2, ["003.png", "009.png"])


@pytest.mark.parametrize("suffix", ["jpg", "bmp", "webp"])
def test_files_of_all_kinds_that_are_cut_in_half_are_named(tmp_path, suffix):
    write(tmp_path, suffix=suffix, shape=(64, 64, 3))
    half(tmp_path / f"003.{suffix}")
    assert f"1 of 12: 003.{suffix} (" in refusal(tmp_path)


def test_ten_files_are_named_of_many(tmp_path):
    write(tmp_path, 30)
    for number in range(11, 30):
        (tmp_path / f"{number:03d}.png").write_bytes(b"no image")
    line = refusal(tmp_path)
    assert "19 of 30: 011.png (" in line and "020.png (no image" in line
    assert "021.png" not in line and "and 9 others" in line


def test_a_class_that_is_left_without_an_image_is_refused(tmp_path):
    for name in ("a", "b"):
        write(tmp_path / name, 9)
    for path in (tmp_path / "b").iterdir():
        path.write_bytes(b"no image")
    said = "b: no image in it"
    assert said in refusal(tmp_path, skip_broken=True)


def test_an_image_in_order_is_never_skipped(tmp_path):
    write(tmp_path)
    of_16_bits(tmp_path / "004.png")
    half(tmp_path / "005.png")
    line = refusal(tmp_path, skip_broken=True)
    assert "1 of 12: 004.png (mode RGB, 16 bits in the file" in line
    assert "005.png" not in line
    found = load(tmp_path, skip_broken=True, bits=16)
    assert found.transform.levels is None
    values = found.train.values[np.arange(5)]
    assert values.dtype == np.float32 and np.all(values[4] == -1)


def test_other_files_left_out_are_another_identity(tmp_path):
    write(tmp_path)
    shutil.copytree(tmp_path, tmp_path.with_name("whole"))
    half(tmp_path / "003.png")
    one = load(tmp_path, skip_broken=True).identity()
    half(tmp_path / "004.png")
    two = load(tmp_path, skip_broken=True).identity()
    (tmp_path / "003.png").unlink()
    three = load(tmp_path, skip_broken=True).identity()
    assert one["skipped"]["digest"] != two["skipped"]["digest"]
    assert three["skipped"]["first"] == ["004.png"] and three != one
    assert "skipped" not in load(tmp_path.with_name("whole")).identity()
    json.dumps(one)


@pytest.fixture
def decoded(monkeypatch):
    """Files that were decoded, in order."""
    seen, check = [], ImageFormat.check

    def counted(self, source):
        seen.append(source.name)
        return check(self, source)

    monkeypatch.setattr(ImageFormat, "check", counted)
    return seen


def test_a_second_start_decodes_what_has_changed(tmp_path, decoded):
    write(tmp_path)
    first = load(tmp_path).identity()
    assert len(decoded) == COUNT
    decoded.clear()
    assert load(tmp_path).identity() == first and not decoded
    load(tmp_path, bits=16)
    assert len(decoded) == COUNT
    decoded.clear()
    path = tmp_path / "007.png"
    before = path.stat().st_mtime_ns
    os.utime(path, ns=(before, before + 1))
    (tmp_path / "001.png").rename(tmp_path / "012.png")
    load(tmp_path)
    assert sorted(decoded) == ["007.png", "012.png"]


def test_a_broken_file_is_looked_at_again(tmp_path, decoded):
    """Such as one that was on a disk that did not answer."""
    write(tmp_path)
    half(tmp_path / "003.png")
    refusal(tmp_path)
    decoded.clear()
    refusal(tmp_path)
    assert decoded == ["003.png"]


@pytest.mark.parametrize("content", [b"", b"[", b"[1]", b'{"a": 1}', b"\xff"])
def test_a_corrupted_cache_is_ignored(tmp_path, own_cache, decoded, content):
    write(tmp_path)
    load(tmp_path)
    (file,) = own_cache.rglob("*.json")
    file.write_bytes(content)
    decoded.clear()
    load(tmp_path)
    assert len(decoded) == COUNT
    decoded.clear()
    load(tmp_path)
    assert not decoded


def test_a_cache_that_cannot_be_written_means_nothing(tmp_path, own_cache, decoded):
    write(tmp_path)
    (own_cache / "diffusionflow").write_text("in the way")
    for _ in range(2):
        decoded.clear()
        load(tmp_path)
        assert len(decoded) == COUNT


def test_what_was_decoded_is_kept_where_it_is_interrupted(tmp_path, monkeypatch):
    write(tmp_path)
    check = ImageFormat.check

    def stopped(self, source):
        if source.name == "011.png":
            raise KeyboardInterrupt
        return check(self, source)

    monkeypatch.setattr(image_check, "CHUNK", 4)
    monkeypatch.setattr(ImageFormat, "check", stopped)
    with pytest.raises(KeyboardInterrupt):
        image_folder.folder(path=str(tmp_path))
    seen = []
    monkeypatch.setattr(
        ImageFormat,
        "check",
        lambda self, source: seen.append(source.name) or check(self, source),
    )
    load(tmp_path)
    assert "011.png" in seen and not {*seen} & {"000.png", "004.png", "007.png"}


def test_what_takes_long_says_how_far_it_is(tmp_path, monkeypatch, capsys):
    write(tmp_path)
    check = ImageFormat.check
    slow = lambda self, source: time.sleep(0.02) or check(self, source)
    monkeypatch.setattr(ImageFormat, "check", slow)
    monkeypatch.setattr(image_check, "CHUNK", 4)
    monkeypatch.setattr(image_check, "EVERY", 0.0)
    load(tmp_path)
    said = capsys.readouterr().out
    assert "decoded 4 of 12 images, " in said and "decoded 8 of 12 images" in said


@pytest.mark.parametrize("name", [b"cat\xff", b"cat\ndog"])
def test_a_name_that_is_no_text_is_refused(tmp_path, name):
    """It could not be printed, nor be the name of a class in a page."""
    write(tmp_path / "0", 9)
    os.rename(tmp_path / "0", os.path.join(os.fsencode(tmp_path), name))
    with pytest.raises(UsageError, match="is no UTF-8, or has .*; rename it") as caught:
        load(tmp_path)
    assert str(caught.value).isprintable()


def test_folders_are_in_natural_order_and_have_names(tmp_path):
    for name in ("10", "2", "1", "0"):
        write(tmp_path / name, 9)
    found = load(tmp_path)
    assert found.class_names == ("0", "1", "2", "10")
    assert found.identity()["class_names"] == ["0", "1", "2", "10"]
    (of_ten,) = np.flatnonzero(found.test.labels == 3)
    with Image.open(tmp_path / "10" / "008.png") as image:
        expected = np.asarray(image)
    row = found.test.values[np.array([of_ten])][0]
    np.testing.assert_array_equal(row, expected)
    assert load(tmp_path / "10").class_names == ()
    (tmp_path / "10").rename(tmp_path / "ten")
    assert load(tmp_path).identity() != found.identity()


@pytest.mark.parametrize("inside", ["", "cats", "cats/more"])
def test_a_folder_that_may_not_be_read_is_one_line(tmp_path, monkeypatch, inside):
    write(tmp_path / "cats", 9)
    (tmp_path / "cats" / "more").mkdir()
    closed = tmp_path / inside
    scanned = os.scandir

    def refuse(path):
        if pathlib.Path(path) == closed:
            raise PermissionError(13, "Permission denied", str(path))
        return scanned(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert f"{closed}: Permission denied" in refusal(tmp_path)


def test_a_file_that_may_not_be_read_is_named(tmp_path, monkeypatch):
    write(tmp_path)
    opened = Image.open

    def refuse(path, *arguments):
        if pathlib.Path(path).name == "005.png":
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *arguments)

    monkeypatch.setattr(Image, "open", refuse)
    assert "1 of 12: 005.png (Permission denied)" in refusal(tmp_path)


def test_a_bomb_is_named(tmp_path, monkeypatch):
    write(tmp_path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1_000)
    Image.new("L", (1000, 1000)).save(tmp_path / "003.png")
    assert "003.png (too many pixels: at most 1,000 are read" in refusal(tmp_path)


def test_images_in_a_folder_with_the_name_of_an_image_are_not_left_out(tmp_path):
    write(tmp_path / "cats", 9)
    write(tmp_path / "cats" / "more.png", 2)
    assert "2 images would be left out, such as cats/more.png/000.png" in refusal(
        tmp_path
    )


def test_a_link_beside_the_classes_is_an_image_beside_them(tmp_path):
    write(tmp_path / "cats", 9)
    (tmp_path / "0.png").symlink_to("gone")
    assert "0.png: an image next to the folders of the classes" in refusal(tmp_path)


def test_faults_of_the_held_out_folder_are_named_too(tmp_path):
    for part in ("train", "test"):
        write(tmp_path / part)
    half(tmp_path / "test" / "003.png")
    paths = dict(test_path=str(tmp_path / "test"))
    assert f"{tmp_path / 'test'}: no readable image: 1 of 12: 003.png" in refusal(
        tmp_path / "train", **paths
    )
    found = load(tmp_path / "train", skip_broken=True, **paths)
    assert len(found.test.labels) == 11 and found.identity()["skipped"]["count"] == 1


def test_every_suffix_that_is_read_is_of_a_format_of_known_depth():
    for suffix in image_listing.SUFFIXES:
        assert Image.registered_extensions()[suffix] in image_decoding.FORMATS
