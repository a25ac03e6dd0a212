"""Data sets by name, from Hugging Face `datasets` and TFDS, when these are installed.

Both are random-access lists of dicts; `image_tables` makes a data set of them. Files of
images are decoded there, not by these packages: TFDS ignores the orientation, and both
read colours of 16 bits as 8.
"""

import functools
import importlib
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

from experiments.data.base import DataSet
from experiments.data.image_format import ImageFormat
from experiments.data.image_tables import Table, numbered, together
from experiments.runtime.errors import nearest


def huggingface(
    *,
    path: str,
    size: tuple[int, ...],
    channels: int = 3,
    image: str = "image",
    label: str = "label",
    train_split: str = "train",
    test_split: str = "test",
    map_labels: bool = False,
    bits: int = 8,
    skip_broken: bool = False,
    flips: bool = False,
) -> DataSet:
    """Reads a data set of Hugging Face `datasets`, uint8 [n, *size, channels].

    Args:
      path: its name there, or a directory.
      size: (height, width): images are scaled to cover it and cropped at the centre.
      channels: 1 or 3.
      image: column of images.
      label: column of labels; an empty name for none.
      train_split: name of the training part.
      test_split: name of the held-out part.
      map_labels: makes classes of whatever labels there are; see `class_labels`.
      bits: 8, or 16 for float32 in [-1, 1] from images of 16 bits.
      skip_broken: goes on without rows that cannot be decoded; which ones belongs to
        the identity of the data.
      flips: mirrors training images half of the time.

    Raises:
      ValueError: if the package or the data set is missing, images would lose
        something, or labels are no classes.
    """
    pixels = ImageFormat(size, channels, bits)
    _check_splits(train_split, test_split)
    package = _imported("datasets", "datasets")
    tables, names = [], []
    for part in (train_split, test_split):
        where = f"path={path!r}, split {part!r}"
        source = _loaded(where, package.load_dataset, path, split=part)
        _check_columns(where, source, image, label)
        labels = None
        if label:
            column = lambda source=source: source[label][:]
            labels = _loaded(f"{where}, label={label!r}", column)
        features = getattr(source, "features", None) or {}
        names.append(getattr(features.get(label), "names", None) or ())
        files = [each["filename"] for each in getattr(source, "cache_files", ())]
        rows = _undecoded(package, source, image)
        tables.append(Table(where, rows, image, labels, files))
    if names[0] != names[1]:
        raise ValueError(
            f"path={path!r}: train_split has {len(names[0])} class names and "
            f"test_split {len(names[1])}: must be the same classes; choose other parts"
        )
    return together(
        path,
        tables,
        pixels,
        functools.partial(numbered, map_labels=map_labels, names=names[0]),
        skip_broken=skip_broken,
        flips=flips,
        moves=pathlib.Path(path).is_dir(),
    )


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
    map_labels: bool = False,
    bits: int = 8,
    skip_broken: bool = False,
    flips: bool = False,
) -> DataSet:
    """Reads a data set of TFDS prepared as array_record, uint8 [n, *size, channels].

    Args:
      dataset: its name there, such as "cifar10".
      size: (height, width): images are scaled to cover it and cropped at the centre.
      channels: 1 or 3.
      image: feature of images.
      label: feature of labels; an empty name for none.
      train_split: name of the training part.
      test_split: name of the held-out part.
      data_dir: where it was prepared; by default where TFDS looks.
      map_labels: makes classes of whatever labels there are; see `class_labels`.
      bits: 8, or 16 for float32 in [-1, 1] from images of 16 bits.
      skip_broken: goes on without rows that cannot be decoded; which ones belongs to
        the identity of the data.
      flips: mirrors training images half of the time.

    Raises:
      ValueError: if the package or the data set is missing, images would lose
        something, or labels are no classes.
    """
    pixels = ImageFormat(size, channels, bits)
    _check_splits(train_split, test_split)
    package = _imported("tensorflow_datasets", "tensorflow-datasets array_record")
    builder = _loaded(
        f"dataset={dataset!r}",
        package.builder,
        dataset,
        data_dir=data_dir,
        file_format="array_record",
    )
    names = ()
    if label:
        features = getattr(getattr(builder, "info", None), "features", None) or {}
        names = tuple(getattr(dict(features).get(label), "names", None) or ())
    tables = []
    for part in (train_split, test_split):
        where = f"dataset={dataset!r}, split {part!r}"
        source = _loaded(where, builder.as_data_source, split=part)
        _check_columns(where, source, image, label)
        skipped = {image: package.decode.SkipDecoding()}
        bare = _loaded(where, builder.as_data_source, split=part, decoders=skipped)
        labels = None
        if label:
            column = lambda bare=bare: [row[label] for row in _rows(bare)]
            labels = _loaded(f"{where}, label={label!r}", column)
        rows = bare if isinstance(bare[0][image], bytes) else source
        tables.append(Table(where, rows, image, labels, _prepared(builder)))
    return together(
        dataset,
        tables,
        pixels,
        functools.partial(numbered, map_labels=map_labels, names=names),
        skip_broken=skip_broken,
        flips=flips,
        moves=False,
    )


def _check_splits(train_split: str, test_split: str) -> None:
    """Raises a ValueError where held-out examples would be those of training."""
    if train_split == test_split:
        raise ValueError(
            f"train_split and test_split are both {test_split!r}: the held-out "
            "examples would be those of training; name two parts, such as "
            "'train[:90%]' and 'train[90%:]'"
        )


def _prepared(builder: Any) -> list[str]:
    """Lists the files of a prepared data set, where they are on this machine."""
    folder = pathlib.Path(str(getattr(builder, "data_path", "")) or "/nowhere")
    return sorted(map(str, folder.glob("*"))) if folder.is_dir() else []


def _imported(module: str, packages: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ValueError(
            f"package {module!r} is missing ({error}): pip install {packages}"
        ) from error


def _loaded(where: str, load: Any, *arguments: Any, **keywords: Any) -> Any:
    """Calls another library to load data; its errors name the data set."""
    try:
        return load(*arguments, **keywords)
    except Exception as error:  # these libraries raise many kinds
        raise ValueError(f"{where}: {type(error).__name__}: {error}") from error


def _rows(source: Sequence[Any]) -> Iterator[Any]:
    return (source[number] for number in range(len(source)))


def _check_columns(where: str, source: Any, image: str, label: str) -> None:
    """Raises a ValueError unless a part has rows with these columns."""
    if not len(source):
        raise ValueError(f"{where}: no rows; choose a part that has some")
    columns = getattr(source, "column_names", None) or [*source[0]]
    for entry, name in (("image", image), ("label", label)):
        if name not in columns and (name or entry == "image"):
            out = ", label='' for no labels" if entry == "label" else ""
            raise ValueError(
                f"{where}: no column {entry}={name!r}; {nearest(name, columns)}{out}"
            )


def _undecoded(package: Any, source: Any, image: str) -> Any:
    """Returns the rows with their image files undecoded, where that is possible."""
    features = getattr(source, "features", None) or {}
    if not isinstance(features.get(image), getattr(package, "Image", ())):
        return source
    bare = source.cast_column(image, package.Image(decode=False))
    first: Any = next((row[image] for row in _rows(bare) if row[image]), {})
    inside = first.get("bytes") is None and "://" in (first.get("path") or "")
    return source if inside else bare  # a file in an archive, which it reads itself
