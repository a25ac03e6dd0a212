"""A folder of images as data, read as they are needed.

All of them are decoded once before the first step. A missing or broken file is a
`ValueError` that names it. No image is left out in silence.
"""

import contextlib
import os
import pathlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from PIL import Image

from experiments.data import image_check
from experiments.data.base import DataSet, DataTransform, Examples, Lazy, flip, split
from experiments.data.class_labels import natural
from experiments.data.fingerprint import SAMPLED, digest_of, file_digest, sampled
from experiments.data.image_check import Fault
from experiments.data.image_format import ImageFormat
from experiments.runtime.errors import UsageError

SUFFIXES = (".bmp", ".jfif", ".jpe", ".jpeg", ".jpg", ".png", ".webp")
NEVER_READ = (".heic", ".heif", ".jxl")  # images, but not of Pillow by itself
NO_IMAGES = ("BUFR", "GRIB", "HDF5", "MPEG", "PDF")  # formats that Pillow knows, too
SMALL = 2**26  # bytes of files that all go into the digest, however many they are
FILES_ALONE = ["."]  # the names of the classes, where there are no subfolders

Labelled = list[tuple[pathlib.Path, int]]  # files, each with the number of its class


class Part(NamedTuple):
    """Files of one folder without fault.

    Fields:
      files: with the number of the class.
      shapes: (height, width) of each.
      faults: of the files left out.
    """

    files: Labelled
    shapes: list[tuple[int, int]]
    faults: list[Fault]


def folder(
    *,
    path: str,
    test_path: str | None = None,
    size: tuple[int, ...] | None = None,
    channels: int = 3,
    bits: int = 8,
    skip_broken: bool = False,
    flips: bool = False,
) -> DataSet:
    """Image files, uint8 [n, height, width, channels], each read when it is needed.

    Subfolders, in natural order (2 before 10), are the classes, which have their names;
    a folder of files alone has none. Hidden files, and files that are no images, are
    left alone. What is read of an image is what a viewer shows: see `image_decoding`.

    Args:
      path: of the folder.
      test_path: of another such folder with the held-out images; without it every 9th
        image of each class, in sorted order, is held out.
      size: (height, width): images are scaled to cover it and cropped to it at the
        centre. Without it all must have one size.
      channels: 1 (grey) or 3 (red, green, blue).
      bits: 8, or 16 for float32 in [-1, 1] from images of 16 bits.
      skip_broken: goes on without files that cannot be decoded; which ones belongs to
        the identity of the data.
      flips: mirrors training images half of the time.

    Raises:
      ValueError: if there is no such folder, no image in it, one of another size, one
        that is broken, or one that would be left out: of another format, or in a folder
        of a class.
    """
    pixels = ImageFormat(size, channels, bits)
    with _reporting(path):
        names = _classes(path)
        train = _checked(path, names, pixels, skip_broken)
        test = None
        if test_path is not None:
            test = _checked(test_path, names, pixels, skip_broken)
        parts = [train] if test is None else [train, test]
        pixels = ImageFormat(size or _common_size(parts), channels, bits)
        digest, contents = _digests(*(part.files for part in parts))
    draw_fn = flip if flips else None
    num_classes = 0 if names == FILES_ALONE else len(names)
    examples = [_examples(part.files, pixels) for part in parts]
    if test is None:
        values, labels = examples[0][:2]
        labels = labels if num_classes else None
        made = split(
            values, labels, pixels.levels, num_classes=num_classes, draw_fn=draw_fn
        )
    else:
        seen, held_out = examples
        transform = DataTransform(pixels.levels)
        made = DataSet(seen, held_out, transform, num_classes, draw_fn)
    return made._replace(
        digest=digest,
        contents=contents,
        class_names=tuple(names) if num_classes else (),
        skipped=image_check.summary([each for part in parts for each in part.faults]),
    )


@contextlib.contextmanager
def _reporting(path: str) -> Iterator[None]:
    """Turns an error of the file system inside into a `UsageError`."""
    try:
        yield
    except OSError as error:
        raise UsageError(f"{error.filename or path}: {error.strerror}") from error


def _checked(
    path: str, names: list[str], pixels: ImageFormat, skip_broken: bool
) -> Part:
    """The files of a folder, all of them decoded once.

    Raises:
      ValueError: some have faults and may not be left out, or a class has no other.
    """
    found, root = _listed(path, names), pathlib.Path(path)
    checked = image_check.check(
        [str(file.relative_to(root)) for file, _ in found],
        [_key(file, root) for file, _ in found],
        lambda number: pixels.check(found[number][0]),
        settings=("folder", str(root.absolute()), pixels),
    )
    image_check.refuse(path, checked.faults, len(found), skip_broken)
    kept = [
        (each, shape)
        for each, shape in zip(found, checked.shapes, strict=True)
        if shape is not None
    ]
    files = [each for each, _ in kept]
    _check_filled(path, names, files)
    return Part(files, [shape for _, shape in kept], checked.faults)


def _key(file: pathlib.Path, root: pathlib.Path) -> str:
    """Changes with a file; empty where it cannot be asked."""
    try:
        found = file.stat()
    except OSError:
        return ""
    return f"{file.relative_to(root)}|{found.st_size}|{found.st_mtime_ns}"


def _examples(found: Labelled, pixels: ImageFormat) -> Examples:
    """The images of files, read when they are indexed."""
    assert pixels.size is not None

    def read(number: int) -> np.ndarray:
        file, _ = found[number]
        try:
            return pixels.read(file)
        except Exception as error:  # it was in order before the first step
            reason = image_check.in_words(error)
            raise UsageError(f"{file}: no readable image: {reason}") from error

    rows = Lazy((len(found), *pixels.size, pixels.channels), pixels.dtype, read)
    return Examples(rows, np.array([label for _, label in found], np.int32))


def _digests(*parts: Labelled) -> tuple[str, str]:
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


def _seen(found: Labelled) -> list[tuple[str, int, int]]:
    """Name, size and label of files, by which others are noticed unread."""
    return [(file.name, file.stat().st_size, label) for file, label in found]


def _classes(path: str) -> list[str]:
    """Names of the subfolders, hidden ones aside, in order; `FILES_ALONE` if none."""
    if not pathlib.Path(path).is_dir():
        raise ValueError(f"path={path!r}: no such folder")
    images, names = [], []
    for entry in pathlib.Path(path).iterdir():
        if _is_image(entry.name):  # a folder of such a name, too
            images.append(entry)
        elif entry.is_dir() and not entry.name.startswith("."):
            names.append(entry.name)
    if names and images:
        raise ValueError(f"{images[0]}: an image beside the folders of the classes")
    return sorted(names, key=natural) or FILES_ALONE


def _listed(path: str, names: list[str]) -> Labelled:
    """The image files of each class, sorted, with the number of the class."""
    if _classes(path) != names:
        raise ValueError(f"{path}: its classes must be those of training: {names}")
    found, left_out = [], []
    for label, name in enumerate(names):
        for entry in sorted((pathlib.Path(path) / name).iterdir()):
            read = entry.suffix.lower() in SUFFIXES
            if not read or (entry.is_dir() and _images(entry)):
                left_out += _images(entry)
            elif not entry.name.startswith("."):
                found.append((entry, label))
    if left_out:
        raise ValueError(
            f"{path}: {len(left_out):,} images would be left out, such as "
            f"{left_out[0].relative_to(path)}: what is read is {', '.join(SUFFIXES)} "
            "directly in the folder of a class; convert or move them"
        )
    _check_filled(path, names, found)
    return found


def _check_filled(path: str, names: list[str], found: Labelled) -> None:
    """Raises a ValueError if a class has no file."""
    empty = {*range(len(names))} - {label for _, label in found}
    if empty:
        where = pathlib.Path(path) / names[min(empty)]
        raise ValueError(f"{where}: no image in it; known: {', '.join(SUFFIXES)}")


def _images(entry: pathlib.Path) -> list[pathlib.Path]:
    """What is an image by its name, at or below an entry of a folder."""
    if entry.name.startswith("."):
        return []
    if not entry.is_dir():
        return [entry] if _is_image(entry.name) else []
    found = []
    for root, folders, names in os.walk(entry, onerror=_raise):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [pathlib.Path(root) / name for name in names if _is_image(name)]
    return sorted(found)


def _raise(error: OSError) -> None:
    raise error


def _is_image(name: str) -> bool:
    """Whether a file is an image by its suffix, and not hidden."""
    known, suffix = Image.registered_extensions(), pathlib.Path(name).suffix.lower()
    if name.startswith("."):
        return False
    return suffix in NEVER_READ or known.get(suffix, NO_IMAGES[0]) not in NO_IMAGES


def _common_size(parts: list[Part]) -> tuple[int, int]:
    """The (height, width) that all files have."""
    sizes: dict[tuple[int, int], pathlib.Path] = {}
    for part in parts:
        for (file, _), shape in zip(part.files, part.shapes, strict=True):
            sizes.setdefault(shape, file)
    if len(sizes) > 1:
        (one, first), (other, second) = list(sizes.items())[:2]
        raise ValueError(
            f"{first} has size {one}, {second} {other}: set size=(height, width) to "
            "scale and crop"
        )
    return next(iter(sizes))
