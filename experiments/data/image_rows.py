"""Images of files and of tables, each read when it is asked for.

The readers are pickled to the processes that read the batches of a run, so this module
imports little.
"""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from experiments.data.image_decoding import Source, UnfitError, in_words
from experiments.data.image_format import ImageFormat
from experiments.runtime.errors import UsageError


@dataclasses.dataclass(frozen=True)
class FileReader:
    """Reads the images of files, which were in order before the first step.

    Args:
      files: their paths.
      pixels: how they become arrays.
    """

    files: Sequence[str]
    pixels: ImageFormat

    def __call__(self, number: int) -> np.ndarray:
        """Reads image `number`, [height, width, channels].

        Raises:
          UsageError: the file has changed since; it names the file.
        """
        file = self.files[number]
        try:
            return self.pixels.read(pathlib.Path(file))
        except Exception as error:
            reason = in_words(error)
            raise UsageError(f"{file}: no readable image: {reason}") from error


@dataclasses.dataclass(frozen=True)
class RowReader:
    """Reads the images of rows, which were in order before the first step.

    Args:
      where: name of the table, for errors.
      rows: dicts by number, of which `column` has the image.
      column: of the images.
      numbers: of the rows that count.
      pixels: how images become arrays.
    """

    where: str
    rows: Sequence[Any]
    column: str
    numbers: Sequence[int]
    pixels: ImageFormat

    def __call__(self, number: int) -> np.ndarray:
        """Reads the image of row `numbers[number]`, [height, width, channels].

        Raises:
          UsageError: the row has changed since; it names the row.
        """
        row = self.numbers[number]
        try:
            return self.pixels.read(source_of(self.rows[row][self.column]))
        except Exception as error:
            raise UsageError(
                f"{self.where}, row {row}, image={self.column!r}: {in_words(error)}"
            ) from error


def source_of(found: Any) -> Source:
    """Returns the image of a row, in whatever form the row has it."""
    if isinstance(found, dict) and {"bytes", "path"} <= found.keys():
        data, path = found["bytes"], found["path"]
        found = data if data is not None or path is None else pathlib.Path(path)
    if found is None:
        raise ValueError("the picture is None, which is missing")
    if isinstance(found, (Image.Image, bytes, pathlib.Path)):
        return found
    if isinstance(found, str):
        raise UnfitError(
            f"a text, {found[:40]!r}: make the column one of pictures with "
            "cast_column(..., datasets.Image())"
        )
    if isinstance(found, (list, tuple)) and any(
        isinstance(each, (Image.Image, dict, bytes)) for each in found
    ):
        raise UnfitError(
            f"{len(found)} pictures in one row: must be one; choose another column"
        )
    array = np.asarray(found)
    untyped = isinstance(found, list) and array.dtype.kind == "i"
    if untyped and array.size and array.min() >= 0 and array.max() <= 255:
        array = array.astype(np.uint8)
    return array
