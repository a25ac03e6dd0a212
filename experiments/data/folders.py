"""A folder of images as data, read as they are needed.

A missing or broken file is a `ValueError` that names it.
"""

import pathlib

import numpy as np
from PIL import Image

from experiments.data.core import (
    DataSet,
    DataTransform,
    Examples,
    Lazy,
    digest_of,
    flip,
    split,
)
from experiments.errors import UsageError

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".webp")
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

    Subfolders, in sorted order, are the classes; a folder of files alone is one class.

    Args:
      path: of the folder.
      test_path: of another such folder with the held-out images; without it every 9th
        image of each class, in sorted order, is held out.
      size: (height, width): images are scaled to cover it and cropped to it at the
        centre. Without it all must have one size.
      channels: 1 (grey) or 3 (red, green, blue).
      flips: mirrors training images half of the time.

    Raises:
      ValueError: if there is no such folder, no image in it, or one of another size.
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
    digest = digest_of(_seen(train), _seen(test or []))
    if test is None:
        made = split(*examples(train), 256, num_classes=len(names), draw_fn=draw_fn)
        return made._replace(digest=digest)
    parts = examples(train), examples(test)
    return DataSet(*parts, DataTransform(256), len(names), draw_fn, digest)


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
    """Names of the subfolders, hidden ones aside, sorted; `["."]` if there are none."""
    if not pathlib.Path(path).is_dir():
        raise ValueError(f"path={path!r}: no such folder")
    there = list(pathlib.Path(path).iterdir())
    names = [p.name for p in there if p.is_dir() and not p.name.startswith(".")]
    loose = next((p for p in there if p.suffix.lower() in SUFFIXES), None)
    if names and loose:
        raise ValueError(f"{loose}: an image beside the folders of the classes")
    return sorted(names) or ["."]


def _listed(path: str, names: list[str]) -> list[tuple[pathlib.Path, int]]:
    """The image files of each class, sorted, with the number of the class."""
    if _classes(path) != names:
        raise ValueError(f"{path}: its classes must be those of training: {names}")
    found = [
        (file, label)
        for label, name in enumerate(names)
        for file in sorted((pathlib.Path(path) / name).iterdir())
        if file.suffix.lower() in SUFFIXES
    ]
    empty = {*range(len(names))} - {label for _, label in found}
    if empty:
        where = pathlib.Path(path) / names[min(empty)]
        raise ValueError(f"{where}: no image in it; known: {', '.join(SUFFIXES)}")
    return found


def _open(file: pathlib.Path) -> Image.Image:
    try:
        return Image.open(file)
    except Exception as error:  # whatever a damaged file raises
        raise UsageError(f"{file}: no readable image: {error}") from error


def _common_size(files: list[pathlib.Path]) -> tuple[int, int]:
    """The (height, width) that all files have."""
    sizes = {}
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


def _read_image(file: pathlib.Path, size: tuple[int, int], channels: int) -> np.ndarray:
    """One file as uint8 [*size, channels]."""
    with _open(file) as image:
        try:
            return fitted(image, size, channels)
        except Exception as error:
            raise UsageError(f"{file}: no readable image: {error}") from error


def fitted(image: Image.Image, size: tuple[int, int], channels: int) -> np.ndarray:
    """An image, scaled to cover `size` and cropped at the centre, as uint8.

    Raises:
      ValueError: it has an alpha channel or more than 8 bits, which would be lost.
    """
    if image.mode not in KEPT or "transparency" in image.info:
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
