"""Arrays of an `.npz` as data: images, or latents of an autoencoder.

A missing or broken file is a `ValueError` that names it.
"""

from collections.abc import Mapping

import numpy as np

from experiments.data.base import DataSet, check_labels, flip, split
from experiments.data.fingerprint import file_digest


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
    made = split(values, found, levels, draw_fn=flip if flips else None)
    return made._replace(digest=file_digest(path))


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
    test = parts.test._replace(values=np.stack(fixed))
    return parts._replace(test=test, digest=file_digest(path))


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
