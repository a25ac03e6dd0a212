"""Pictures and masks that samples are made from, as the model sees its data.

A picture is an image file, read as the run's data source reads one (see
`data.image_decoding`), or, of any event shape, an array in an `.npy` or `.npz`: what
`sample` writes, or floats as the model sees them.
"""

import hashlib
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from experiments.data import array_checks, image_listing, npz_entries
from experiments.data.base import DataTransform
from experiments.data.image_check import say
from experiments.data.image_decoding import in_words
from experiments.data.image_format import ImageFormat
from experiments.runtime.errors import naming
from experiments.runtime.progress import announced
from experiments.sampling.generate import Stored
from experiments.sampling.requested import read_npy

ARRAYS = ("samples", "values", "images")  # of an .npz that hold pictures
OUTSIDE = 1e-6  # [-1, 1], by rounding


class Pictures(NamedTuple):
    """Pictures to begin from.

    Fields:
      values: float32 [k, *event], as the model or its autoencoder sees data.
      name: of the file or folder.
      digest: of the values.
    """

    values: np.ndarray
    name: str
    digest: str


def read(
    option: str,
    path: str,
    stored: Stored,
    data: Mapping[str, Any] | None,
    most: int,
) -> Pictures:
    """Reads the pictures of a file or folder.

    Args:
      option: that names the path, for errors.
      path: an image, a folder of images, an `.npy` or an `.npz`.
      stored: of the samples; of quantised data the pictures are rounded to the levels.
      data: section of the run's config; None of samples that an autoencoder decodes.
      most: pictures that are used.

    Raises:
      UsageError: they cannot be read, or are no data of this model.
    """
    file = pathlib.Path(path)
    with naming(f"{option}={path!r}"), announced(f"reading {path}"):
        if file.suffix in (".npy", ".npz"):
            found = _of_arrays(path, stored)
            values, count = found[:most], len(found)
        else:
            pixels, files = _image_format(stored, data), _files(file)
            values = _of_images(option, files[:most], pixels, stored.event_shape)
            count = len(files)
        values = _rounded(option, values, stored.transform)
    if count > most:
        say(f"{option}: the first {most:,} of {count:,} pictures are used")
    return Pictures(values, file.name, digest(values))


def digest(values: np.ndarray) -> str:
    """Identifies an array by 16 hexadecimal digits."""
    found = hashlib.sha256(repr((values.shape, str(values.dtype))).encode())
    found.update(np.ascontiguousarray(values).tobytes())
    return found.hexdigest()[:16]


def mask(path: str, event_shape: tuple[int, ...]) -> np.ndarray:
    """Reads a mask, True where the picture is known.

    Args:
      path: a black and white image, white where the picture is known, or an array of 1
        and 0 in an `.npy` or `.npz` (there named `mask`), which may leave out axes at
        the end.
      event_shape: of the data.

    Returns:
      bool [*event].

    Raises:
      UsageError: it cannot be read, has another size, or other values.
    """
    with naming(f"mask={path!r}"):
        suffix, known = pathlib.Path(path).suffix, (0, 1)
        if suffix == ".npz":
            found = npz_entries.array(npz_entries.read_npz(path), "mask")
        elif suffix == ".npy":
            (found,) = read_npy(path).values()
        else:
            check_are_images(event_shape)
            found, known = _image(pathlib.Path(path), ImageFormat(None, 1, 8)), (0, 255)
        whole = found.shape + (1,) * (len(event_shape) - found.ndim)
        if len(whole) != len(event_shape) or any(
            size not in (1, there)
            for size, there in zip(whole, event_shape, strict=True)
        ):
            raise ValueError(
                f"shape {list(found.shape)}: must be that of the samples, "
                f"{list(event_shape)}; scale it without smoothing"
            )
        if found.dtype.kind not in "biuf" or not np.isin(found, known).all():
            raise ValueError(
                f"values other than {known[0]} and {known[1]}: must be {known[1]} "
                f"where the picture is known and {known[0]} where it is to be filled"
            )
    known_here = np.broadcast_to((found != 0).reshape(whole), event_shape)
    say(f"mask: {known_here.sum():,} of {known_here.size:,} values are known")
    return known_here


def check_are_images(event_shape: tuple[int, ...]) -> None:
    """Raises a ValueError unless events are images of grey or colours."""
    if len(event_shape) != 3 or event_shape[-1] not in (1, 3):
        raise ValueError(
            f"an image, and samples of this run have shape {list(event_shape)}: give "
            "an array of that shape, .npy or .npz"
        )


def coarser(known: np.ndarray, event_shape: tuple[int, ...]) -> np.ndarray:
    """Converts a mask of pictures to their latents: known where all pixels are.

    Args:
      known: bool [factor height, factor width, channels].
      event_shape: of the latents, (height, width, their channels).

    Returns:
      bool [*event_shape].

    Raises:
      ValueError: pixels are known, and no place of the latents is.
    """
    height, width, _ = event_shape
    blocks = known.reshape(height, -1, width, known.shape[1] // width, known.shape[2])
    found = np.asarray(blocks.all((1, 3, 4)))
    if known.any() and not found.any():
        raise ValueError(
            "the mask has known pixels, but no place of the latents has all of its "
            f"{known.shape[0] // height} x {known.shape[1] // width} known; mark more"
        )
    say(f"mask: {found.sum():,} of {found.size:,} places of the latents are known")
    return np.broadcast_to(found[..., None], event_shape)


def _image_format(stored: Stored, data: Mapping[str, Any] | None) -> ImageFormat:
    """Finds how images become a model's data; floats are of 16 bits, in [-1, 1]."""
    if data is not None and data["name"] == "latents":
        raise ValueError(
            "an image, and the data of this run are latents: give --autoencoder, or "
            "latents in an .npy or .npz"
        )
    check_are_images(stored.event_shape)
    if data is not None and data.get("unscaled"):
        raise ValueError(
            "an image, and the data of this run have a scale of their own: give an "
            "array as the model sees them, .npy or .npz"
        )
    height, width, channels = stored.event_shape
    bits = 16 if stored.transform.levels is None else 8
    return ImageFormat((height, width), channels, bits)


def _files(path: pathlib.Path) -> list[pathlib.Path]:
    """Lists the image files of a folder, in the order of names, or the one file."""
    if not path.is_dir():
        return [path]
    names = image_listing.classes(str(path))
    if names != image_listing.FILES_ALONE:
        raise ValueError(f"a folder of folders: name one of them, such as {names[0]!r}")
    return [file for file, _ in image_listing.listed(str(path), names)]


def _of_images(
    option: str,
    files: list[pathlib.Path],
    pixels: ImageFormat,
    event_shape: tuple[int, ...],
) -> np.ndarray:
    """Reads images as floats [k, *event], scaled and cropped as data of a `size`."""
    found, other = [], []
    as_stored = ImageFormat(None, pixels.channels, pixels.bits)
    for file in files:
        values = _image(file, as_stored)
        if values.shape != event_shape:
            other.append(f"{file.name} of {values.shape[0]}x{values.shape[1]}")
            values = _image(file, pixels)
        found.append(values)
    if other:
        height, width, _ = event_shape
        say(
            f"{option}: scaled and cropped to {height}x{width} pixels: {len(other):,} "
            f"images, the first {other[0]}"
        )
    return np.asarray(DataTransform(pixels.levels).to_float(np.stack(found)))


def _image(file: pathlib.Path, pixels: ImageFormat) -> np.ndarray:
    try:
        return pixels.read(file)
    except Exception as error:  # whatever a corrupted image raises
        raise ValueError(f"{file.name}: {in_words(error)}") from error


def _of_arrays(path: str, stored: Stored) -> np.ndarray:
    """Reads an array [k, *event] or [*event] of stored values or floats, as floats."""
    if path.endswith(".npz"):
        arrays = npz_entries.read_npz(path)
        found = npz_entries.array(arrays, *ARRAYS)
        levels = arrays.get("levels", stored.transform.levels)
    else:
        (found,) = read_npy(path).values()
        levels = stored.transform.levels
    event = stored.event_shape
    found = found[None] if found.shape == event else found
    if found.shape[1:] != event or not len(found):
        raise ValueError(
            f"an array of shape {list(found.shape)}: must be [n, *event] with events "
            f"of shape {list(event)}, as samples of this run are"
        )
    if found.dtype == np.uint8 and levels is not None:
        top = int(levels) - 1
        if found.max() > top:
            raise ValueError(f"values up to {found.max()}: must be levels 0..{top}")
        return np.asarray(DataTransform(top + 1).to_float(found))
    if found.dtype.kind != "f":
        known = "floats" if levels is None else "uint8, or floats in [-1, 1]"
        raise ValueError(f"values of type {found.dtype}: must be {known}")
    return array_checks.finite("values", found)


def _rounded(option: str, values: np.ndarray, transform: DataTransform) -> np.ndarray:
    """Rounds floats to the levels of the data; says by how much they were changed."""
    if transform.levels is None:
        return values
    least, most = float(values.min()), float(values.max())
    if not -1 - OUTSIDE <= least <= most <= 1 + OUTSIDE:
        raise ValueError(f"values from {least:g} to {most:g}: must be in [-1, 1]")
    rounded = np.asarray(transform.to_float(transform.to_stored(values)))
    change = float(np.abs(rounded - values).max())
    if change > OUTSIDE:
        say(
            f"{option}: rounded to the {transform.levels} levels of the data, by at "
            f"most {change:.2g} (data are in [-1, 1])"
        )
    return rounded
