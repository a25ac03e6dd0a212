"""One's own files: images in an `.npz` or a folder, latents, and CIFAR-10's binaries.

A missing or broken file is a `ValueError` that names it.
"""

import pathlib
from collections.abc import Mapping

import numpy as np
from PIL import Image

from experiments.data.core import (
    DataSet,
    DataTransform,
    Examples,
    Lazy,
    check_labels,
    flip,
    split,
)
from experiments.errors import UsageError

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".webp")
MODES = {1: "L", 3: "RGB"}  # of Pillow, by number of channels
CIFAR_SHAPE = (3, 32, 32)
CIFAR_TRAIN = tuple(f"data_batch_{number}.bin" for number in range(1, 6))


def npz(
    *,
    path: str,
    images: str = "images",
    labels: str = "labels",
    low: float | None = None,
    high: float | None = None,
    flips: bool = False,
) -> DataSet:
    """Images [n, height, width, channels] of an `.npz`; every 9th of a class held out.

    An `.npz` is read whole: one that is larger than memory belongs in a folder.

    Args:
      path: of the file.
      images: name of its array of images: uint8, or floats in [low, high], which
        become [-1, 1].
      labels: name of its array of labels [n]; without one there is one class.
      low: of the range of floats.
      high: of the range of floats.
      flips: mirrors training images half of the time.

    Raises:
      ValueError: if file or array is missing or broken, or the range is not declared
        or not kept.
    """
    arrays = _read_npz(path)
    values = _array(arrays, images, path)
    if values.ndim != 4 or not values.size:
        raise ValueError(
            f"{path}: {images!r} has shape {values.shape}: must be [n, height, width, "
            "channels]"
        )
    levels = 256 if values.dtype == np.uint8 else None
    if levels is None:
        values = _scaled(values, low, high, f"{path}: {images!r}")
    elif low is not None or high is not None:
        raise ValueError(
            f"low={low}, high={high}: {path} is uint8, whose range is 0..255"
        )
    found = _labels(arrays, labels, len(values), path)
    return split(values, found, levels, draw_fn=flip if flips else None)


def _scaled(
    values: np.ndarray, low: float | None, high: float | None, where: str
) -> np.ndarray:
    """Floats of [low, high] as float32 in [-1, 1]."""
    if values.dtype.kind != "f":
        raise ValueError(f"{where} has type {values.dtype}: must be uint8 or float")
    if low is None or high is None or not low < high:
        raise ValueError(
            f"{where} has type {values.dtype}, and low={low}, high={high}: floats need "
            "their range declared, such as low=0.0, high=1.0"
        )
    if not ((values >= low) & (values <= high)).all():
        raise ValueError(
            f"{where} reaches from {values.min()} to {values.max()}: must be in "
            f"[low, high] = [{low}, {high}]"
        )
    return (2 * ((values.astype(np.float64) - low) / (high - low)) - 1).astype("f4")


def latents(*, path: str, labels: str = "labels", scale: float = 1.0) -> DataSet:
    """Latents of an autoencoder, from an `.npz` of their moments [n, height, width, c].

    z = scale (mean + std eps), with eps fresh for each (seed, epoch, example) in
    training and fixed for a held-out example. The file has `mean`, and `std` or
    `logvar` = 2 log std.

    Args:
      path: of the file.
      labels: name of its array of labels [n]; without one there is one class.
      scale: positive; the usual choice gives z a standard deviation of 1.

    Raises:
      ValueError: if the file is missing or broken, or a value is out of bounds.
    """
    if not scale > 0:
        raise ValueError(f"scale={scale}: must be positive")
    arrays = _read_npz(path)
    if ("std" in arrays) == ("logvar" in arrays):
        raise ValueError(f"{path}: must have 'mean', and either 'std' or 'logvar'")
    mean = _array(arrays, "mean", path).astype(np.float32)
    std = arrays["std"] if "std" in arrays else np.exp(arrays["logvar"] / 2)
    if mean.ndim != 4 or mean.shape != std.shape:
        raise ValueError(
            f"{path}: mean has shape {mean.shape}, its deviation {std.shape}: both "
            "must be [n, height, width, channels]"
        )
    if not (np.isfinite(mean).all() and np.isfinite(std).all() and (std >= 0).all()):
        raise ValueError(f"{path}: moments must be finite, deviations not negative")
    moments = np.stack([mean, std.astype(np.float32)], axis=1) * np.float32(scale)

    def draw(rng: np.random.RandomState, values: np.ndarray) -> np.ndarray:
        noise = rng.standard_normal(values[0].shape).astype(np.float32)
        return values[0] + values[1] * noise

    found = _labels(arrays, labels, len(mean), path)
    parts = split(moments, found, None, draw_fn=draw)
    held_out = parts.test.values
    fixed = [draw(np.random.RandomState([n]), row) for n, row in enumerate(held_out)]
    return parts._replace(test=parts.test._replace(values=np.stack(fixed)))


def _read_npz(path: str) -> dict[str, np.ndarray]:
    """All arrays of an `.npz`."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except Exception as error:  # whatever a damaged archive raises
        raise ValueError(f"{path}: no readable .npz file: {error}") from error


def _array(arrays: Mapping[str, np.ndarray], name: str, path: str) -> np.ndarray:
    if name not in arrays:
        raise ValueError(f"{path}: no array {name!r}; it has {', '.join(arrays)}")
    return arrays[name]


def _labels(
    arrays: Mapping[str, np.ndarray], name: str, count: int, path: str
) -> np.ndarray:
    """The labels [count], zeros if the file has none."""
    if name not in arrays:
        if name != "labels":
            _array(arrays, name, path)
        return np.zeros(count, np.int32)
    found = check_labels(arrays[name])
    if len(found) != count:
        raise ValueError(f"{path}: {len(found)} labels for {count} examples")
    return found


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
    if channels not in MODES:
        raise ValueError(f"channels={channels}: must be 1 or 3")
    if size is not None and (len(size) != 2 or min(size) < 1):
        raise ValueError(f"size={size}: must be (height, width), both at least 1")
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
    if test is None:
        return split(*examples(train), 256, num_classes=len(names), draw_fn=draw_fn)
    parts = examples(train), examples(test)
    return DataSet(*parts, DataTransform(256), len(names), draw_fn)


def _classes(path: str) -> list[str]:
    """Names of the subfolders, sorted; `["."]` if there are none."""
    if not pathlib.Path(path).is_dir():
        raise ValueError(f"path={path!r}: no such folder")
    return sorted(p.name for p in pathlib.Path(path).iterdir() if p.is_dir()) or ["."]


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
    if not found:
        raise ValueError(f"path={path!r}: no image in it; known: {', '.join(SUFFIXES)}")
    return found


def _open(file: pathlib.Path) -> Image.Image:
    try:
        return Image.open(file)
    except OSError as error:
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
        except (OSError, ValueError) as error:
            raise UsageError(f"{file}: no readable image: {error}") from error


def fitted(image: Image.Image, size: tuple[int, int], channels: int) -> np.ndarray:
    """An image, scaled to cover `size` and cropped at the centre, as uint8."""
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


def cifar10(*, path: str, flips: bool = False) -> DataSet:
    """CIFAR-10 from its binary version: uint8 [n, 32, 32, 3], its own test part.

    Args:
      path: of the directory with `data_batch_1.bin` to `data_batch_5.bin` and
        `test_batch.bin`: records of a label and 3 x 32 x 32 bytes.
      flips: mirrors training images half of the time.

    Raises:
      ValueError: if a file is missing or no whole number of records.

    Source: Krizhevsky, Learning multiple layers of features from tiny images, 2009.
    """
    parts = [_read_cifar(pathlib.Path(path) / name) for name in CIFAR_TRAIN]
    train = Examples(*(np.concatenate(part) for part in zip(*parts, strict=True)))
    test = _read_cifar(pathlib.Path(path) / "test_batch.bin")
    return DataSet(train, test, DataTransform(256), 10, flip if flips else None)


def _read_cifar(file: pathlib.Path) -> Examples:
    try:
        stored = np.fromfile(file, np.uint8)
    except OSError as error:
        raise ValueError(f"{file}: {error.strerror}") from error
    record = 1 + int(np.prod(CIFAR_SHAPE))
    if not stored.size or stored.size % record:
        raise ValueError(
            f"{file}: {stored.size} bytes: must be a whole number of {record}-byte "
            "records; copy it again"
        )
    rows = stored.reshape(-1, record)
    labels = check_labels(rows[:, 0], num_classes=10)
    return Examples(rows[:, 1:].reshape(-1, *CIFAR_SHAPE).transpose(0, 2, 3, 1), labels)
