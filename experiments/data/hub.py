"""Data sets by name, from Hugging Face `datasets` and TFDS, when these are installed.

Both are random-access lists of dicts, read one example at a time.
"""

import functools
import hashlib
import importlib
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from PIL import Image

from experiments.data.base import (
    DataSet,
    DataTransform,
    Examples,
    Lazy,
    check_labels,
    flip,
)
from experiments.data.fingerprint import SAMPLED, digest_of, sampled
from experiments.data.image_folder import check_shape, fitted
from experiments.runtime.errors import UsageError


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
      label: column of labels; an empty name for none.
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
    moves = pathlib.Path(path).is_dir()
    return _together(path, parts, flips, labelled=bool(label), moves=moves)


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
      label: feature of labels; an empty name for none.
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
    return _together(dataset, parts, flips, labelled=bool(label), moves=False)


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
        try:
            return fitted(_opened(source[number][image]), size, channels)
        except Exception as error:  # whatever a corrupted row raises
            reason = f"{type(error).__name__}: {error}".partition("\n")[0]
            raise UsageError(
                f"{where}, row {number}, image={image!r}: {reason}"
            ) from error

    rows = Lazy((len(source), *size, channels), np.uint8, read)
    return Examples(rows, check_labels(labels))


def _opened(found: Any) -> Image.Image:
    """The image of a row: one already, or uint8 [height, width] or with channels."""
    if isinstance(found, Image.Image):
        return found
    array = np.asarray(found)
    untyped = isinstance(found, list) and array.dtype.kind == "i"
    if untyped and array.min() >= 0 and array.max() <= 255:
        array = array.astype(np.uint8)
    if array.dtype != np.uint8:
        raise ValueError(
            f"type {array.dtype}: must be uint8; save the images as files of 8 bits, "
            "or as an .npz, whose floats have a declared range"
        )
    single = array.ndim == 3 and array.shape[-1] == 1
    return Image.fromarray(array[..., 0] if single else array)


def _together(
    name: str, parts: list[Examples], flips: bool, *, labelled: bool, moves: bool
) -> DataSet:
    """The data set; a name that `moves` does not tell it from others."""
    most = max(part.labels.max() for part in parts)
    num_classes = 1 + int(most) if labelled else 0
    draw_fn = flip if flips else None
    labels = [part.labels.tolist() for part in parts]
    rows = [
        sampled(
            functools.partial(_row_digest, part),
            len(part.labels),
            SAMPLED,
        )
        for part in parts
    ]
    train, test = parts
    return DataSet(
        train,
        test,
        DataTransform(256),
        num_classes,
        draw_fn,
        digest=digest_of(name, *labels),
        contents=digest_of("" if moves else name, *labels, *rows),
    )


def _row_digest(part: Examples, number: int) -> str:
    return hashlib.sha256(part.values.row(number).tobytes()).hexdigest()
