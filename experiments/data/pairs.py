"""Pairs of noise and sample that `diffusionflow pairs` wrote, as training data.

A step uses the noise of an example as its eps, so that a model trained on pairs is the
next rectified flow (reflow), or a student of one step. The samples are floats as the
sampler gave them, neither rounded to levels nor clamped.

A run on pairs has two kinds of data. It trains on pairs, and what it logs as held-out
loss is of pairs too, with their own noise: every 9th of each class. Its samples stand
for the data of the first teacher, though, so `diffusionflow evaluate` compares them
with the training examples of these and takes likelihoods of their held-out examples, as
it did for the teacher: the numbers of both can be compared, and the teacher's errors
count as errors. The file has the section `data` of that config and the identity of its
examples; other examples are refused. Its levels are the file's too: samples of a
student are rounded as those of its teacher.

The entries of a file, n pairs:

| entry | array |
|---|---|
| `samples`, `noise` | float32 [n, *event] |
| `labels` | int32 [n]; zeros where the data have no classes |
| `conditions` | float32 [n, k]; left out where the data have none |
| `num_classes` | of the data |
| `levels` | of the data; left out where they are floats |
| `original` | JSON: `data`, a section of a config, and `examples`, its identity |

Source: Liu et al. 2022, Flow Straight and Fast, arXiv 2209.03003 (reflow); Luhman and
Luhman 2021, arXiv 2101.02388 (one step).
"""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments.data import array_checks, npz_entries
from experiments.data.base import DataSet, split
from experiments.data.class_labels import MOST
from experiments.data.npz_entries import Arrays, naming_file
from experiments.runtime import files

ORIGINAL = ("data", "examples")
NAMES = ("samples", "noise", "labels", "conditions")  # by which a file is recognised


def pairs(*, path: str, original: str = "") -> DataSet:
    """Reads pairs of a run's model, from the `.npz` of `diffusionflow pairs`.

    Every 9th pair of each class is held out. See the module for what is evaluated.

    Args:
      path: of the file, which is read whole.
      original: data set of the first teacher where it is not where the file says, as a
        call, such as `npz(path='moved.npz')`; it must hold the same examples.

    Raises:
      ValueError: if the file is missing or broken, or no file of pairs.

    Example:
      `config.data = dict(name="pairs", path="runs/a/pairs/many.npz")`
    """
    with naming_file(path):
        arrays = npz_entries.read_npz(path)
        _check(arrays)
        num_classes = _whole(arrays, "num_classes", 0, MOST)
        found = _original(arrays)
        made = split(
            arrays["samples"],
            arrays["labels"] if num_classes else None,
            _whole(arrays, "levels", 2, 256) if "levels" in arrays else None,
            conditions=arrays.get("conditions"),
            noise=arrays["noise"],
            num_classes=num_classes or None,
        )
    if original:
        found["data"] = {"name": original}
    return made._replace(digest=_digest(arrays), original=found)


def _whole(arrays: Arrays, name: str, low: int, high: int) -> int:
    """Reads a whole number of a file."""
    found = arrays[name]
    if found.shape or found.dtype.kind not in "iu" or not low <= found <= high:
        shown = repr(found.item()) if not found.shape else f"shape {found.shape}"
        raise ValueError(f"{name}={shown}: must be a whole number in {low}..{high:,}")
    return int(found)


def _original(arrays: Arrays) -> dict[str, Any]:
    """Reads which data the samples stand for: a section and an identity."""
    found = files.parse_json(str(arrays["original"]))
    parts = [found.get(name) for name in ORIGINAL] if isinstance(found, dict) else []
    if not parts or not all(isinstance(part, dict) for part in parts):
        raise ValueError(
            f"original: must be JSON with {' and '.join(ORIGINAL)}; draw the pairs "
            "again"
        )
    return found


def _check(arrays: Arrays) -> None:
    """Raises a ValueError unless these are the arrays of pairs."""
    lacking = {*NAMES[:3], "num_classes", "original"} - arrays.keys()
    if lacking:
        raise ValueError(
            f"no {', '.join(sorted(lacking))}: must be a file of `diffusionflow pairs`"
        )
    samples, noise = arrays["samples"], arrays["noise"]
    shapes = samples.shape, noise.shape
    labels = arrays["labels"].shape
    if samples.ndim < 2 or len({*shapes}) > 1 or labels != samples.shape[:1]:
        raise ValueError(
            f"samples of shape {shapes[0]}, noise of {shapes[1]} and labels of "
            f"{labels}: must be [n, *event] twice and [n]"
        )
    for name in ("samples", "noise"):
        if arrays[name].dtype != np.float32:
            raise ValueError(f"{name} of type {arrays[name].dtype}: must be float32")
        array_checks.finite(name, arrays[name])
    if "conditions" in arrays and len(arrays["conditions"]) != len(samples):
        raise ValueError(
            f"{len(arrays['conditions'])} conditions for {len(samples)} pairs: must be "
            "as many"
        )


def _digest(arrays: Arrays, names: Sequence[str] = NAMES) -> str:
    """Digests the arrays themselves: a zip file has the time of its writing in it."""
    total = hashlib.sha256()
    for name in names:
        if name in arrays:
            array = np.ascontiguousarray(arrays[name])
            total.update(repr((name, array.shape, array.dtype.str)).encode())
            total.update(array.data)
    return total.hexdigest()[:16]
