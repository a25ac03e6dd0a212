"""A folder of images as data, read as they are needed.

All of them are decoded once before the first step. A missing or broken file is a
`ValueError` that names it. No image is left out in silence.
"""

import contextlib
import pathlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from experiments.data import image_check
from experiments.data.base import DataSet, DataTransform, Examples, Lazy, flip, split
from experiments.data.fingerprint import SAMPLED, digest_of, file_digest, sampled
from experiments.data.image_check import Fault
from experiments.data.image_format import ImageFormat
from experiments.data.image_listing import (
    FILES_ALONE,
    Labelled,
    check_filled,
    classes,
    listed,
)
from experiments.data.image_rows import FileReader
from experiments.data.regular_file import check_other
from experiments.runtime.errors import UsageError

SMALL = 2**26  # bytes of files that all go into the digest, however many they are


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
    """Reads image files, uint8 [n, height, width, channels], each when it is needed.

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
    if test_path is not None:
        check_other(path, test_path)
    with _reporting(path):
        names = classes(path)
        train = _checked(path, names, pixels, skip_broken)
        test = None
        if test_path is not None:
            if classes(test_path) != names:
                raise ValueError(
                    f"{test_path}: its classes must be those of training: {names}"
                )
            test = _checked(test_path, names, pixels, skip_broken)
        parts = [train] if test is None else [train, test]
        pixels = ImageFormat(size or _common_size(parts), channels, bits)
        digest, contents = _digests(*(part.files for part in parts))
    augment_fn = flip if flips else None
    num_classes = 0 if names == FILES_ALONE else len(names)
    examples = [_examples(part.files, pixels) for part in parts]
    if test is None:
        values, labels = examples[0][:2]
        labels = labels if num_classes else None
        made = split(
            values,
            labels,
            pixels.levels,
            num_classes=num_classes,
            augment_fn=augment_fn,
        )
    else:
        seen, held_out = examples
        transform = DataTransform(pixels.levels)
        made = DataSet(seen, held_out, transform, num_classes, augment_fn)
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
    """Checks the files of a folder, all of which are decoded once.

    Raises:
      ValueError: some have faults and may not be left out, or a class has no other.
    """
    found, root = listed(path, names), pathlib.Path(path)
    alone = names == FILES_ALONE
    shown = [file.name if alone else f"{names[n]}/{file.name}" for file, n in found]
    checked = image_check.check(
        shown,
        [_key(file, name) for (file, _), name in zip(found, shown, strict=True)],
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
    check_filled(path, names, files)
    return Part(files, [shape for _, shape in kept], checked.faults)


def _key(file: pathlib.Path, name: str) -> str:
    """Returns a key that changes with a file; empty where it cannot be asked."""
    try:
        found = file.stat()
    except OSError:
        return ""
    return f"{name}|{found.st_size}|{found.st_mtime_ns}"


def _examples(found: Labelled, pixels: ImageFormat) -> Examples:
    """Makes examples of the images of files, read when they are indexed."""
    assert pixels.size is not None
    reader = FileReader([str(file) for file, _ in found], pixels)
    rows = Lazy((len(found), *pixels.size, pixels.channels), pixels.dtype, reader)
    return Examples(rows, np.array([label for _, label in found], np.int32))


def _digests(*parts: Labelled) -> tuple[str, str]:
    """Digests names, sizes and labels of all files; and these with the bytes of some.

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
    """Lists name, size and label of files, which show a change without reading them."""
    return [(file.name, file.stat().st_size, label) for file, label in found]


def _common_size(parts: list[Part]) -> tuple[int, int]:
    """Finds the (height, width) that all files have."""
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
