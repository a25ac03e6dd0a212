"""Arrays of an `.npz` as data of any shape, or latents of an autoencoder.

What a file may hold, by the names of its arrays, n examples each:

| entry | array | without it |
|---|---|---|
| `values`, or `images` | [n, *event], the examples: uint8, or floats | refused |
| `labels` | [n] integers from 0, the classes | the data have no classes |
| `conditions` | [n, k] numbers, the vector that a network is given | no vectors |
| `mask` | zeros and ones that begin as `values`, 1 where a value counts | all count |

An event has any number of axes: [height, width, channels] is an image, [length,
channels] a series, [frames, height, width, channels] a video, [features] a vector; a
number alone is [1]. Arrays of other names are left alone. Each entry may have another
name, which is then an argument, and must be there; an empty one leaves the entry out.
Conditions may be several arrays [n] or [n, k_i], `conditions=("text", "pose")`, which
become one vector side by side; zero is the null vector, that of a dropped condition.
A mask may leave out axes at the end, or have 1 along an axis, where it is the same:
[n, length] for series. The loss, held-out too, is the mean over the values that count.

Validation examples are every 9th of each class, or a file of their own, `test_path`,
with the same entries. A file is read whole: one that is larger than memory belongs in
a folder. A missing or broken file is a `ValueError` that names it.
"""

from typing import Any

import numpy as np

from experiments.data import npz_entries
from experiments.data.base import (
    DataSet,
    DataTransform,
    DrawFn,
    Examples,
    check_labels,
    flip,
    split,
)
from experiments.data.fingerprint import file_digest
from experiments.data.npz_entries import DEFAULTS, Names, naming_file


def npz(
    *,
    path: str,
    test_path: str | None = None,
    values: str | None = None,
    labels: str = "labels",
    conditions: str | tuple[str, ...] = "conditions",
    mask: str = "mask",
    low: float | None = None,
    high: float | None = None,
    flips: bool = False,
) -> DataSet:
    """Arrays [n, *event] of an `.npz`, whose entries this module lists.

    Values of uint8 have 256 levels. Floats in [low, high] become [-1, 1]; of images
    [height, width, channels] the range must be declared, other floats pass as they are
    where it is not. `low=-inf, high=inf` lets those of images pass too.

    Args:
      path: of the file.
      test_path: of another one with the held-out examples; without it every 9th
        example of each class is held out.
      values: name of the array of examples; by default `values`, or `images`.
      labels: name of the array of labels.
      conditions: name, or names, of the vectors.
      mask: name of the mask.
      low: of the range of floats.
      high: of the range of floats.
      flips: mirrors training images, and their masks, half of the time.

    Raises:
      ValueError: if a file or an array is missing or broken, the range is not declared
        or not kept, the files do not fit each other, or `flips` is of no images.

    Example:
      `config.data = dict(name="npz", path="series.npz", test_path="later.npz")`
    """
    known = ("values", "images") if values is None else (values,)
    names = Names(labels, conditions, mask)

    def read(path: str) -> Examples:
        with naming_file(path):
            arrays = npz_entries.read_npz(path)
            stored = _stored(npz_entries.array(arrays, *known), low, high)
            return npz_entries.examples(arrays, names, stored)

    found = read(path)
    if flips and found.values.ndim != 4:
        raise ValueError(
            f"flips=True: {path} has events of shape {list(found.values.shape[1:])}, "
            "and images are [height, width, channels]"
        )
    levels = 256 if found.values.dtype == np.uint8 else None
    draw_fn = flip if flips else None
    return _data_set(found, path, test_path, read, levels=levels, draw_fn=draw_fn)


def latents(
    *,
    path: str,
    test_path: str | None = None,
    labels: str = "labels",
    conditions: str | tuple[str, ...] = "conditions",
    scale: float = 1.0,
) -> DataSet:
    """Latents of an autoencoder, from an `.npz` of their moments [n, *event].

    z = scale (mean + std eps), with eps fresh for each (seed, epoch, example) in
    training and fixed for a held-out example. The file has `mean`, and `std` or
    `logvar` = 2 log std, in the place of `values`; labels and conditions are those of
    `npz`, and a mask is refused.

    Args:
      path: of the file.
      test_path: of another one with the held-out examples.
      labels: name of the array of labels.
      conditions: name, or names, of the vectors.
      scale: positive; the usual choice gives z a standard deviation of 1.

    Raises:
      ValueError: if a file is missing or broken, or a value is out of bounds.
    """
    if not scale > 0:
        raise ValueError(f"scale={scale}: must be positive")
    names = Names(labels, conditions, mask="")

    def read(path: str) -> Examples:
        with naming_file(path):
            arrays = npz_entries.read_npz(path)
            if DEFAULTS.mask in arrays:
                raise ValueError("latents take no mask; remove this entry")
            return npz_entries.examples(arrays, names, _moments(arrays, scale))

    parts = _data_set(
        read(path), path, test_path, read, levels=None, draw_fn=_draw_latent
    )
    fixed = [
        _draw_latent(np.random.RandomState([number]), row)
        for number, row in enumerate(parts.test.values)
    ]
    return parts._replace(test=parts.test._replace(values=np.stack(fixed)))


def _data_set(
    train: Examples,
    path: str,
    test_path: str | None,
    read: Any,
    *,
    levels: int | None,
    draw_fn: DrawFn | None,
) -> DataSet:
    """Examples with their own held-out part, or with that of another file."""
    if test_path is None:
        with naming_file(path):
            made = split(
                train.values,
                train.labels,
                levels,
                conditions=train.conditions,
                mask=train.mask,
                draw_fn=draw_fn,
            )
        return made._replace(digest=file_digest(path))
    test = read(test_path)
    num_classes = 0 if train.labels is None else int(train.labels.max()) + 1
    with naming_file(test_path):
        npz_entries.check_alike(train, test)
        if num_classes:
            check_labels(test.labels, num_classes)
    train, test = map(_labelled, (train, test))
    return DataSet(
        train,
        test,
        DataTransform(levels),
        num_classes,
        draw_fn,
        digest=file_digest(path, test_path),
    )


def _labelled(found: Examples) -> Examples:
    """Examples whose labels are zeros where they are None."""
    if found.labels is not None:
        return found
    return found._replace(labels=np.zeros(len(found.values), np.int32))


def _stored(values: np.ndarray, low: float | None, high: float | None) -> np.ndarray:
    """uint8 as they are, or floats as float32, scaled to [-1, 1] from their range."""
    if values.ndim < 2 or not values.size:
        raise ValueError(
            f"values of shape {values.shape}: must be [n, *event], such as [n, height, "
            "width, channels], [n, length, channels] or [n, features]"
        )
    declared = low is not None or high is not None
    if values.dtype == np.uint8:
        if declared:
            raise ValueError(f"low={low}, high={high}: uint8 has the range 0..255")
        return values
    if values.dtype.kind != "f":
        raise ValueError(f"values of type {values.dtype}: must be uint8 or float")
    if not np.isfinite(values).all():
        raise ValueError("values that are not finite: NaN or infinity among them")
    if declared or values.ndim == 4:
        return _scaled(values, low, high)
    return values.astype(np.float32)


def _scaled(values: np.ndarray, low: float | None, high: float | None) -> np.ndarray:
    """Floats of [low, high] as float32 in [-1, 1]; of all numbers, unchanged."""
    if low is None or high is None or not low < high:
        raise ValueError(
            f"values of type {values.dtype}, and low={low}, high={high}: floats need "
            "their range declared, such as low=0.0, high=1.0"
        )
    if not ((values >= low) & (values <= high)).all():
        raise ValueError(
            f"values from {values.min()} to {values.max()}: must be in [low, high] = "
            f"[{low}, {high}]"
        )
    if np.isinf(low) and np.isinf(high):
        return values.astype(np.float32)
    if np.isinf(low) or np.isinf(high):
        raise ValueError(f"low={low}, high={high}: must both be finite, or neither")
    return (2 * ((values.astype(np.float64) - low) / (high - low)) - 1).astype("f4")


def _moments(arrays: npz_entries.Arrays, scale: float) -> np.ndarray:
    """Means and deviations, float32 [n, 2, *event]."""
    if ("std" in arrays) == ("logvar" in arrays):
        raise ValueError("must have 'mean', and either 'std' or 'logvar'")
    mean = npz_entries.array(arrays, "mean").astype(np.float32)
    std = arrays["std"] if "std" in arrays else np.exp(arrays["logvar"] / 2)
    if mean.ndim < 2 or mean.shape != std.shape:
        raise ValueError(
            f"mean has shape {mean.shape}, its deviation {std.shape}: both must be "
            "[n, *event], such as [n, height, width, channels]"
        )
    if not (np.isfinite(mean).all() and np.isfinite(std).all() and (std >= 0).all()):
        raise ValueError("moments must be finite, deviations not negative")
    return np.stack([mean, std.astype(np.float32)], axis=1) * np.float32(scale)


def _draw_latent(rng: np.random.RandomState, values: np.ndarray) -> np.ndarray:
    """A latent [*event], from its mean and deviation [2, *event]."""
    noise = rng.standard_normal(values[0].shape).astype(np.float32)
    return values[0] + values[1] * noise
