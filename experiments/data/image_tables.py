"""Images and labels in the rows of a table, decoded once before the first step."""

import functools
import hashlib
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments.data import class_labels, image_check
from experiments.data.base import DataSet, DataTransform, Examples, Lazy, flip
from experiments.data.fingerprint import SAMPLED, digest_of, sampled
from experiments.data.image_check import Fault
from experiments.data.image_format import ImageFormat
from experiments.data.image_rows import RowReader, source_of
from experiments.runtime.errors import UsageError


class Table(NamedTuple):
    """One part of a data set.

    Fields:
      where: name of the set and of the part, for errors.
      rows: dicts by number, of which `column` has the image.
      column: of the images.
      labels: values of all rows, or None.
      files: in which the rows are, by which another version of them is noticed; empty
        where they are unknown.
    """

    where: str
    rows: Sequence[Any]
    column: str
    labels: Sequence[Any] | None
    files: Sequence[str]


def numbered(
    labels: list[Any], tables: list[Table], map_labels: bool, names: Sequence[str]
) -> class_labels.Classes:
    """Numbers the classes of both parts; errors name the part."""
    (train, test), (first, second) = labels, tables
    try:
        return class_labels.classes(
            train,
            test,
            map_labels=map_labels,
            entry="label",
            names=names,
            test_name=second.where,
        )
    except ValueError as error:
        named = str(error).startswith(second.where)
        raise ValueError(str(error) if named else f"{first.where}: {error}") from error


def together(
    name: str,
    tables: list[Table],
    pixels: ImageFormat,
    numbered_fn: Callable[[list[Any], list[Table]], class_labels.Classes],
    *,
    skip_broken: bool,
    flips: bool,
    moves: bool,
) -> DataSet:
    """Makes the data set of two tables; `contents` leaves out a name that `moves`."""
    labels = [table.labels for table in tables]
    labelled = labels[0] is not None
    if labelled:  # at once: images take long
        numbered_fn(labels, tables)
    chosen, faults = _checked(tables, pixels, skip_broken)
    names: tuple[str, ...] = ()
    numbers = [np.zeros(len(rows), np.int32) for rows in chosen]
    if labelled:
        pairs = zip(tables, chosen, strict=True)
        kept = [[(table.labels or ())[row] for row in rows] for table, rows in pairs]
        found = numbered_fn(kept, tables)
        numbers, names = [found.train, found.test], found.names
    train, test = (
        Examples(_lazy(table, rows, pixels), found)
        for table, rows, found in zip(tables, chosen, numbers, strict=True)
    )
    known = [part.labels.tolist() for part in (train, test)]
    looked = [
        sampled(functools.partial(_row_digest, part), len(part.labels), SAMPLED)
        for part in (train, test)
    ]
    return DataSet(
        train,
        test,
        DataTransform(pixels.levels),
        1 + int(train.labels.max()) if labelled else 0,
        flip if flips else None,
        digest=digest_of(name, *known),
        contents=digest_of("" if moves else name, *known, *looked),
        class_names=names,
        skipped=image_check.summary(faults),
    )


def _checked(
    tables: list[Table], pixels: ImageFormat, skip_broken: bool
) -> tuple[list[list[int]], list[Fault]]:
    """Finds the rows that are read, by number, of each part; and the others' faults."""
    chosen, faults = [], []
    for table in tables:
        count, version = len(table.rows), _version(table.files)
        checked = image_check.check(
            [f"row {row}" for row in range(count)],
            [f"{row}|{version}" if version else "" for row in range(count)],
            functools.partial(_check, table, pixels),
            settings=(table.where, table.column, pixels),
        )
        where = f"{table.where}, image={table.column!r}"
        image_check.refuse(where, checked.faults, count, skip_broken)
        rows = [row for row, shape in enumerate(checked.shapes) if shape is not None]
        if not rows:
            raise UsageError(
                f"{where}: skip_broken=True leaves out all {count:,} rows; choose "
                "another column"
            )
        chosen.append(rows)
        faults += checked.faults
    return chosen, faults


def _check(table: Table, pixels: ImageFormat, row: int) -> tuple[int, int]:
    return pixels.check(source_of(table.rows[row][table.column]))


def _version(files: Sequence[str]) -> str:
    """Digests the files of a part, by names, sizes and times; empty where unknown."""
    try:
        found = [pathlib.Path(file).stat() for file in files]
    except OSError:
        return ""
    seen = [(each.st_size, each.st_mtime_ns) for each in found]
    return digest_of(*files, *seen) if seen else ""


def _lazy(table: Table, rows: list[int], pixels: ImageFormat) -> Lazy:
    """Makes an array of the images of rows, read when they are indexed."""
    assert pixels.size is not None
    reader = RowReader(table.where, table.rows, table.column, rows, pixels)
    return Lazy((len(rows), *pixels.size, pixels.channels), pixels.dtype, reader)


def _row_digest(part: Examples, number: int) -> str:
    return hashlib.sha256(part.values.row(number).tobytes()).hexdigest()
