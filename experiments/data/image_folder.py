"""A folder of images as data, read as they are needed.

A missing or broken file is a `ValueError` that names it. No image is left out in
silence.
"""

import os
import pathlib

import numpy as np
from PIL import Image

from experiments.data.base import DataSet, DataTransform, Examples, Lazy, flip, split
from experiments.data.fingerprint import SAMPLED, digest_of, file_digest, sampled
from experiments.runtime.errors import UsageError

SUFFIXES = (".bmp", ".jfif", ".jpe", ".jpeg", ".jpg", ".png", ".webp")
NEVER_READ = (".heic", ".heif", ".jxl")  # images, but not of Pillow by itself
NO_IMAGES = ("BUFR", "GRIB", "HDF5", "MPEG", "PDF")  # formats that Pillow knows, too
SMALL = 2**26  # bytes of files that all go into the digest, however many they are
FILES_ALONE = ["."]  # the names of the classes, where there are no subfolders
MODES = {1: "L", 3: "RGB"}  # of Pillow, by number of channels
KEPT = ("1", "L", "P", "RGB", "YCbCr", "CMYK")  # modes that lose nothing in these


def folder(
    *,
    path: str,
    test_path: str | None = None,
    size: tuple[int, ...] | None = None,
    channels: int = 3,
    flips: bool = False,
) -> DataSet:
    """Image files, uint8 [n, height, width, channels], each read when it is needed.

    Subfolders, in sorted order, are the classes; a folder of files alone has none.
    Hidden files, and files that are no images, are left alone.

    Args:
      path: of the folder.
      test_path: of another such folder with the held-out images; without it every 9th
        image of each class, in sorted order, is held out.
      size: (height, width): images are scaled to cover it and cropped to it at the
        centre. Without it all must have one size.
      channels: 1 (grey) or 3 (red, green, blue).
      flips: mirrors training images half of the time.

    Raises:
      ValueError: if there is no such folder, no image in it, one of another size, or
        one that would be left out: of another format, or in a folder of a class.
    """
    check_shape(size, channels)
    names = _classes(path)
    train = _listed(path, names)
    test = None if test_path is None else _listed(test_path, names)
    shape = size or _common_size([file for file, _ in train + (test or [])])

    def examples(found: list[tuple[pathlib.Path, int]]) -> Examples:
        files = [file for file, _ in found]
        rows = Lazy(
            (len(files), *shape, channels),
            np.uint8,
            lambda number: _read_image(files[number], shape, channels),
        )
        return Examples(rows, np.array([label for _, label in found], np.int32))

    draw_fn = flip if flips else None
    num_classes = 0 if names == FILES_ALONE else len(names)
    if test is None:
        values, labels = examples(train)[:2]
        labels = labels if num_classes else None
        made = split(values, labels, 256, num_classes=num_classes, draw_fn=draw_fn)
    else:
        parts = examples(train), examples(test)
        made = DataSet(*parts, DataTransform(256), num_classes, draw_fn)
    try:
        digest, contents = _digests(train, test or [])
    except OSError as error:
        raise UsageError(f"{path}: no readable image: {error}") from error
    return made._replace(digest=digest, contents=contents)


def _digests(*parts: list[tuple[pathlib.Path, int]]) -> tuple[str, str]:
    """Of names, sizes and labels of all files; and of these and the bytes of some.

    The bytes are those of all files where these are small or few.
    """
    seen = [_seen(part) for part in parts]
    files = [file for part in parts for file, _ in part]
    small = sum(size for part in seen for _, size, _ in part) <= SMALL
    read = sampled(
        lambda number: file_digest(files[number]),
        len(files),
        len(files) if small else SAMPLED,
    )
    return digest_of(*seen), digest_of(*seen, read)


def _seen(found: list[tuple[pathlib.Path, int]]) -> list[tuple[str, int, int]]:
    """Name, size and label of files, by which others are noticed unread."""
    return [(file.name, file.stat().st_size, label) for file, label in found]


def check_shape(size: tuple[int, ...] | None, channels: int) -> None:
    """Raises a ValueError unless images can be made of this size."""
    if channels not in MODES:
        raise ValueError(f"channels={channels}: must be 1 or 3")
    if size is not None and (len(size) != 2 or min(size) < 1):
        raise ValueError(f"size={size}: must be (height, width), both at least 1")


def _classes(path: str) -> list[str]:
    """Names of the subfolders, hidden ones aside, sorted; `FILES_ALONE` if none."""
    if not pathlib.Path(path).is_dir():
        raise ValueError(f"path={path!r}: no such folder")
    there = list(pathlib.Path(path).iterdir())
    names = [p.name for p in there if p.is_dir() and not p.name.startswith(".")]
    loose = [p for p in there if p.is_file() and _is_image(p.name)] if names else []
    if loose:
        raise ValueError(f"{loose[0]}: an image beside the folders of the classes")
    return sorted(names) or FILES_ALONE


def _listed(path: str, names: list[str]) -> list[tuple[pathlib.Path, int]]:
    """The image files of each class, sorted, with the number of the class."""
    if _classes(path) != names:
        raise ValueError(f"{path}: its classes must be those of training: {names}")
    found, left_out = [], []
    for label, name in enumerate(names):
        for entry in sorted((pathlib.Path(path) / name).iterdir()):
            if entry.suffix.lower() not in SUFFIXES:
                left_out += _images(entry)
            elif not entry.name.startswith("."):
                found.append((entry, label))
    if left_out:
        raise ValueError(
            f"{path}: {len(left_out):,} images would be left out, such as "
            f"{left_out[0].relative_to(path)}: what is read is {', '.join(SUFFIXES)} "
            "directly in the folder of a class; convert or move them"
        )
    empty = {*range(len(names))} - {label for _, label in found}
    if empty:
        where = pathlib.Path(path) / names[min(empty)]
        raise ValueError(f"{where}: no image in it; known: {', '.join(SUFFIXES)}")
    return found


def _images(entry: pathlib.Path) -> list[pathlib.Path]:
    """What is an image by its name, at or below an entry of a folder."""
    if entry.name.startswith("."):
        return []
    if not entry.is_dir():
        return [entry] if _is_image(entry.name) else []
    found = []
    for root, folders, names in os.walk(entry):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [pathlib.Path(root) / name for name in names if _is_image(name)]
    return sorted(found)


def _is_image(name: str) -> bool:
    """Whether a file is an image by its suffix, and not hidden."""
    known, suffix = Image.registered_extensions(), pathlib.Path(name).suffix.lower()
    if name.startswith("."):
        return False
    return suffix in NEVER_READ or known.get(suffix, NO_IMAGES[0]) not in NO_IMAGES


def _open(file: pathlib.Path) -> Image.Image:
    try:
        return Image.open(file)
    except Exception as error:  # whatever a corrupted file raises
        raise UsageError(f"{file}: no readable image: {error}") from error


def _common_size(files: list[pathlib.Path]) -> tuple[int, int]:
    """The (height, width) that all files have."""
    sizes: dict[tuple[int, int], pathlib.Path] = {}
    for file in files:
        with _open(file) as image:
            sizes.setdefault(image.size[::-1], file)
    if len(sizes) > 1:
        (one, first), (other, second) = list(sizes.items())[:2]
        raise ValueError(
            f"{first} has size {one}, {second} {other}: set size=(height, width) to "
            "scale and crop"
        )
    return next(iter(sizes))


def _read_image(file: pathlib.Path, size: tuple[int, ...], channels: int) -> np.ndarray:
    """One file as uint8 [*size, channels]."""
    with _open(file) as image:
        try:
            return fitted(image, size, channels)
        except Exception as error:
            raise UsageError(f"{file}: no readable image: {error}") from error


def fitted(image: Image.Image, size: tuple[int, ...], channels: int) -> np.ndarray:
    """An image, scaled to cover `size` and cropped at the centre, as uint8.

    Raises:
      ValueError: it has an alpha channel or more than 8 bits, which would be lost.
    """
    if image.mode not in KEPT or image.has_transparency_data:
        raise ValueError(
            f"mode {image.mode}, or transparent: convert it to 8 bits, grey or colour"
        )
    image = image.convert(MODES[channels])
    height, width = size
    if image.size != (width, height):
        scale = max(height / image.height, width / image.width)
        grown = (
            max(width, round(image.width * scale)),
            max(height, round(image.height * scale)),
        )
        image = image.resize(grown, Image.Resampling.LANCZOS)
        left, top = (grown[0] - width) // 2, (grown[1] - height) // 2
        image = image.crop((left, top, left + width, top + height))
    return np.asarray(image, np.uint8).reshape(height, width, channels)
