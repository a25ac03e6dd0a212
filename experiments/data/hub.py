"""Data sets by name, from Hugging Face `datasets` and TFDS, when these are installed.

Both are random-access lists of dicts, read one example at a time.
"""

import importlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from PIL import Image

from experiments.data.core import (
    DataSet,
    DataTransform,
    Examples,
    Lazy,
    check_labels,
    digest_of,
    flip,
)
from experiments.data.folders import check_shape, fitted


def huggingface(
    *,
    path: str,
    size: tuple[int, ...],
    channels: int = 3,
    image: str = "image",
    label: str = "label",
    train_split: str = "train",
    test_split: str = "test",
    flips: bool = False,
) -> DataSet:
    """A data set of Hugging Face `datasets`, uint8 [n, *size, channels].

    Args:
      path: its name there, or a directory.
      size: (height, width): images are scaled to cover it and cropped at the centre.
      channels: 1 or 3.
      image: column of images.
      label: column of labels; an empty name for one class.
      train_split: name of the training part.
      test_split: name of the held-out part.
      flips: mirrors training images half of the time.

    Raises:
      ValueError: if the package or the data set is missing.
    """
    check_shape(size, channels)
    package = _imported("datasets", "datasets")
    parts = []
    for name in (train_split, test_split):
        where = f"path={path!r}, split {name!r}"
        source = _loaded(where, package.load_dataset, path, split=name)
        column = lambda source=source: np.array(source[label])
        labels = np.zeros(len(source), np.int32)
        if label:
            labels = _loaded(f"{where}, label={label!r}", column)
        parts.append(_examples(where, source, image, labels, size, channels))
    return _together(path, parts, flips)


def tfds(
    *,
    dataset: str,
    size: tuple[int, ...],
    channels: int = 3,
    image: str = "image",
    label: str = "label",
    train_split: str = "train",
    test_split: str = "test",
    data_dir: str | None = None,
    flips: bool = False,
) -> DataSet:
    """A data set of TFDS prepared as array_record, uint8 [n, *size, channels].

    Args:
      dataset: its name there, such as "cifar10".
      size: (height, width): images are scaled to cover it and cropped at the centre.
      channels: 1 or 3.
      image: feature of images.
      label: feature of labels; an empty name for one class.
      train_split: name of the training part.
      test_split: name of the held-out part.
      data_dir: where it was prepared; by default where TFDS looks.
      flips: mirrors training images half of the time.

    Raises:
      ValueError: if the package or the data set is missing.
    """
    check_shape(size, channels)
    package = _imported("tensorflow_datasets", "tensorflow-datasets array_record")
    builder = _loaded(
        f"dataset={dataset!r}",
        package.builder,
        dataset,
        data_dir=data_dir,
        file_format="array_record",
    )
    parts = []
    for name in (train_split, test_split):
        where = f"dataset={dataset!r}, split {name!r}"
        source = _loaded(where, builder.as_data_source, split=name)
        labels = np.zeros(len(source), np.int32)
        if label:
            skipped = {image: package.decode.SkipDecoding()}
            bare = _loaded(where, builder.as_data_source, split=name, decoders=skipped)
            column = lambda bare=bare: np.array([row[label] for row in _rows(bare)])
            labels = _loaded(f"{where}, label={label!r}", column)
        parts.append(_examples(where, source, image, labels, size, channels))
    return _together(dataset, parts, flips)


def _imported(module: str, packages: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ValueError(
            f"package {module!r} is missing ({error}): pip install {packages}"
        ) from error


def _loaded(where: str, load: Any, *arguments: Any, **keywords: Any) -> Any:
    """What a call of another library gives; its errors name the data set."""
    try:
        return load(*arguments, **keywords)
    except Exception as error:  # these libraries raise many kinds
        raise ValueError(f"{where}: {type(error).__name__}: {error}") from error


def _rows(source: Sequence[Any]) -> Iterator[Any]:
    return (source[number] for number in range(len(source)))


def _examples(
    where: str,
    source: Sequence[Any],
    image: str,
    labels: np.ndarray,
    size: tuple[int, ...],
    channels: int,
) -> Examples:
    def read(number: int) -> np.ndarray:
        found = source[number][image]
        if not isinstance(found, Image.Image):
            array = np.asarray(found, np.uint8)
            found = Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array)
        return fitted(found, size, channels)

    _loaded(f"{where}, image={image!r}", read, 0)
    rows = Lazy((len(source), *size, channels), np.uint8, read)
    return Examples(rows, check_labels(labels))


def _together(name: str, parts: list[Examples], flips: bool) -> DataSet:
    num_classes = 1 + int(max(part.labels.max() for part in parts))
    draw_fn = flip if flips else None
    digest = digest_of(name, *(part.labels.tolist() for part in parts))
    return DataSet(*parts, DataTransform(256), num_classes, draw_fn, digest)
