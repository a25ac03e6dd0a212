"""Arrays of an `.npz` as data of any shape.

What a file may hold, by the names of its arrays, n examples each:

| entry | array | without it |
|---|---|---|
| `values`, or `images` | [n, *event], the examples: uint8, or floats | refused |
| `labels` | [n] integers from 0, the classes | the data have no classes |
| `conditions` | [n, k] numbers, the vector that a network is given | no vectors |
| `mask` | zeros and ones that begin as `values`, 1 where a value counts | all count |

An event has any number of axes: [height, width, channels] is an image, [length,
channels] a series, [frames, height, width, channels] a video, [features] a vector; a
number alone is [1]. Channels come last: an event whose first axis is 1, 3 or 4 and
whose last one is not is refused, unless `channels_first` moves it or `channels_last`
says that it is right. Arrays of other names are left alone, which is said. Labels of
other integers, or of words, become classes with `map_labels`. Each entry may have
another name, which is then an argument, and must be there; an empty one leaves the
entry out.
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

from experiments.data import array_checks, class_labels, npz_entries
from experiments.data.base import (
    AugmentFn,
    DataSet,
    DataTransform,
    Examples,
    flip,
    split,
)
from experiments.data.fingerprint import file_digest
from experiments.data.npz_entries import Names, naming_file
from experiments.data.regular_file import check_other

FILLED = 0.01  # of a declared range, at least, by values that differ


def npz(
    *,
    path: str,
    test_path: str | None = None,
    values: str | None = None,
    labels: str = "labels",
    conditions: str | tuple[str, ...] = "conditions",
    mask: str = "mask",
    map_labels: bool = False,
    levels: int | None = None,
    low: float | None = None,
    high: float | None = None,
    unscaled: bool = False,
    channels_first: bool = False,
    channels_last: bool = False,
    flips: bool = False,
) -> DataSet:
    """Reads arrays [n, *event] of an `.npz`, whose entries this module lists.

    Values of uint8 have 256 levels, or `levels`. Floats in [low, high] become [-1, 1];
    of images [height, width, channels] the range must be declared, other floats pass as
    they are where it is not; `unscaled` lets those of images pass too.

    Args:
      path: of the file.
      test_path: of another one with the held-out examples; without it every 9th
        example of each class is held out.
      values: name of the array of examples; by default `values`, or `images`.
      labels: name of the array of labels.
      conditions: name, or names, of the vectors.
      mask: name of the mask.
      map_labels: makes classes of whatever labels there are; see `class_labels`.
      levels: of uint8, which are 0..levels - 1 then; 2 to 256.
      low: of the range of floats.
      high: of the range of floats.
      unscaled: takes floats as they are.
      channels_first: moves the first axis of an event to its end.
      channels_last: says that the last axis is that of the channels.
      flips: mirrors training images, and their masks, half of the time.

    Raises:
      ValueError: if a file or an array is missing or broken, the range is not declared
        or not kept, the files do not fit each other, or `flips` is of no images.

    Example:
      `config.data = dict(name="npz", path="series.npz", test_path="later.npz")`
    """
    if test_path is not None:
        check_other(path, test_path)
    known = ("values", "images") if values is None else (values,)
    names = Names(labels, conditions, mask)
    axes = dict(first=channels_first, last=channels_last)

    def read(path: str) -> Examples:
        with naming_file(path):
            arrays = npz_entries.read_npz(path)
            npz_entries.check_names(names, *known)
            stored = npz_entries.array(arrays, *known)
            _check_values(stored)
            found = npz_entries.examples(arrays, names, stored)
            moved = array_checks.channels_last("values", stored, **axes)
            stored = _stored(moved, levels, low, high, unscaled)
        npz_entries.say_unused(path, arrays, names, *known)
        found_mask = found.mask
        if found_mask is not None and channels_first:
            found_mask = np.moveaxis(found_mask, 1, -1)
        return found._replace(values=stored, mask=found_mask)

    found = read(path)
    if flips and found.values.ndim != 4:
        raise ValueError(
            f"flips=True: {path} has events of shape {list(found.values.shape[1:])}, "
            "and images are [height, width, channels]"
        )
    augment_fn = flip if flips else None
    made = data_set(found, path, test_path, read, augment_fn, map_labels)
    whole = found.values.dtype == np.uint8
    return made._replace(transform=DataTransform((levels or 256) if whole else None))


def data_set(
    train: Examples,
    path: str,
    test_path: str | None,
    read: Any,
    augment_fn: AugmentFn | None,
    map_labels: bool,
) -> DataSet:
    """Makes a data set of floats, with a held-out part of its own or of another file.

    Args:
      train: examples of the file.
      path: of the file.
      test_path: of the held-out examples, or None.
      read: `path -> examples` of such a file, whose labels are as they are there.
      augment_fn: of the data set.
      map_labels: makes classes of whatever labels there are.
    """
    test = None if test_path is None else read(test_path)
    if test is not None:
        with naming_file(str(test_path)):
            npz_entries.check_alike(train, test)
    names: tuple[str, ...] = ()
    num_classes = 0
    if train.labels is not None:
        with naming_file(path):
            found = class_labels.classes(
                train.labels,
                None if test is None else test.labels,
                map_labels=map_labels,
                test_name=str(test_path),
            )
        train, num_classes = train._replace(labels=found.train), found.num_classes
        names = found.names
        test = None if test is None else test._replace(labels=found.test)
    elif map_labels:
        raise ValueError(
            f"{path}: map_labels=True, but the file has no labels; leave map_labels "
            "out, or name the array by labels="
        )
    if test is not None:
        train, test = map(_labelled, (train, test))
        digest = file_digest(path, str(test_path))
        made = DataSet(train, test, DataTransform(), num_classes, augment_fn, digest)
        return made._replace(class_names=names)
    with naming_file(path):
        made = split(
            train.values,
            train.labels,
            None,
            conditions=train.conditions,
            mask=train.mask,
            num_classes=num_classes or None,
            augment_fn=augment_fn,
        )
    return made._replace(digest=file_digest(path), class_names=names)


def _labelled(found: Examples) -> Examples:
    """Makes labels of zeros where examples have none."""
    if found.labels is not None:
        return found
    return found._replace(labels=np.zeros(len(found.values), np.int32))


def _check_values(values: np.ndarray) -> None:
    """Raises a ValueError unless values are numbers of examples."""
    if values.ndim < 2 or not values.size:
        raise ValueError(
            f"values of shape {values.shape}: must be [n, *event], such as [n, height, "
            "width, channels], [n, length, channels] or [n, features]"
        )
    if values.dtype == np.uint8 or values.dtype.kind == "f":
        return
    out = ""
    if values.dtype.kind == "b":
        out = "; save them .astype(numpy.uint8) and set levels=2"
    elif values.dtype.kind in "iu":
        low, high = values.min(), values.max()
        out = f"; these from {low} to {high} are floats of a range, low and high"
        if low >= 0 and high <= 255:
            out = f"; these from {low} to {high} fit in numpy.uint8"
    raise ValueError(f"values of type {values.dtype}: must be uint8 or float{out}")


def _stored(
    values: np.ndarray,
    levels: int | None,
    low: float | None,
    high: float | None,
    unscaled: bool,
) -> np.ndarray:
    """Keeps uint8, or converts floats to float32, from their range to [-1, 1]."""
    declared = low is not None or high is not None
    if unscaled and (declared or levels is not None):
        raise ValueError(
            f"unscaled=True with {levels=}, {low=}, {high=}: leave these out, or "
            "unscaled"
        )
    if values.dtype == np.uint8:
        if declared or unscaled:
            raise ValueError(
                f"{low=}, {high=}, {unscaled=}: must be left out of values of type "
                "uint8, which have the range 0..255"
            )
        top = int(values.max())
        if levels is None and top == 1:
            raise ValueError(
                f"values from {values.min()} to {top} of type uint8, nearly black as "
                "levels 0..255: levels=2 says that these are all there are, levels=256 "
                "takes them as they are; or floats were cut off, which are to be saved "
                "as floats"
            )
        if levels is not None and top >= levels:
            raise ValueError(f"levels={levels}: values up to {top}, must be below it")
        return values
    if levels is not None:
        raise ValueError(
            f"levels={levels}: must be left out of values of type {values.dtype}; only "
            "uint8 have levels"
        )
    if declared or (values.ndim == 4 and not unscaled):
        return _scaled(values, low, high)
    return array_checks.finite("values", values)


def _scaled(values: np.ndarray, low: float | None, high: float | None) -> np.ndarray:
    """Scales floats of [low, high] to float32 in [-1, 1]."""
    values = array_checks.finite("values", values, np.float64)
    if low is None or high is None or not low < high:
        raise ValueError(
            f"values of type {values.dtype}, and low={low}, high={high}: floats need "
            "their range declared, such as low=0.0, high=1.0; unscaled=True takes them "
            "as they are"
        )
    if not np.isfinite([low, high, high - low]).all():
        raise ValueError(
            f"low={low}, high={high}: must be finite; unscaled=True takes values as "
            "they are"
        )
    least, most = float(values.min()), float(values.max())
    if not low <= least <= most <= high:
        raise ValueError(
            f"values from {least} to {most}: must be in [low, high] = [{low}, {high}]"
        )
    if 0 < most - least < FILLED * (high - low):
        raise ValueError(
            f"values from {least:g} to {most:g}: less than a hundredth of [low, high] "
            f"= [{low}, {high}]; declare the range that they have"
        )
    return (2 * ((values - low) / (high - low)) - 1).astype(np.float32)
