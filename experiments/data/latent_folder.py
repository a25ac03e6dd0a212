"""Reads a folder of moments of latents that `diffusionflow encode` wrote.

`index.json` lists the shards of both parts with their sizes and the checksums that
their archives name. Moments are read row by row from the files, which are mapped into
memory, so that a folder may be larger than that; labels and conditions are read at
once.
"""

import functools
import pathlib
import struct
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from experiments.data.base import AugmentFn, DataSet, DataTransform, Examples, Lazy
from experiments.data.fingerprint import digest_of
from experiments.runtime import files
from experiments.runtime.errors import UsageError

FORMAT = 1
INDEX = "index.json"
MOMENTS = ("mean", "std", "mean_flipped", "std_flipped")
LOCAL_HEADER = 30  # bytes of a zip file's, before a name and extra fields
Entry = Mapping[str, Any]


def entry(folder: pathlib.Path, path: pathlib.Path, count: int) -> dict[str, Any]:
    """What the index says of a shard.

    Args:
      folder: of the index.
      path: of the shard.
      count: of its examples.
    """
    name = path.relative_to(folder).as_posix()
    return {"file": name, "count": count, "digest": _digest(path)}


def _digest(path: pathlib.Path) -> str:
    """Of the names, sizes and checksums in an archive's directory."""
    with zipfile.ZipFile(path) as file:
        listed = [(each.filename, each.file_size, each.CRC) for each in file.infolist()]
    return digest_of(listed)


def read(folder: pathlib.Path, *, mean_only: bool = False) -> DataSet:
    """The data set of a folder of latents.

    A training example is sampled from its moments, or from those of its mirror image
    where there are some, half of the time; a held-out one is sampled once.

    Args:
      folder: with an `index.json`.
      mean_only: takes the mean in place of a sample.

    Raises:
      ValueError: the folder is not complete, or a shard is missing or another one.
    """
    index = _index(folder)
    train, test = (_part(folder, index["shards"][name]) for name in ("train", "test"))
    augment_fn = functools.partial(drawn, mean_only=mean_only)
    held_out = test._replace(values=_fixed(test.values, augment_fn))
    return DataSet(
        train,
        held_out,
        DataTransform(),
        index["num_classes"],
        augment_fn,
        digest_of({name: index[name] for name in sorted(index) if name != "data"}),
        class_names=tuple(index["class_names"]),
    )


def _index(folder: pathlib.Path) -> dict[str, Any]:
    path = folder / INDEX
    if not path.is_file():
        raise ValueError(
            f"{folder}: no {INDEX}: must be a folder that diffusionflow encode has "
            "completed; its command goes on where it was stopped"
        )
    found = files.read_json(path)
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise ValueError(f"{path}: must be of format {FORMAT}; encode the data again")
    return found


def _part(folder: pathlib.Path, listed: list[Entry]) -> Examples:
    """The examples of a part, their moments read when they are indexed."""
    arrays, labels, conditions = [], [], []
    for each in listed:
        path = folder / each["file"]
        if not path.is_file() or _digest(path) != each["digest"]:
            raise ValueError(
                f"{path} is missing, or another file than {INDEX} lists: run "
                "diffusionflow encode again, which makes what is missing"
            )
        arrays.append(_mapped(path))
        small = files.read_npz(path, *_small(path))
        labels.append(small["labels"])
        conditions.append(small.get("conditions"))
    vectors = None if conditions[0] is None else np.concatenate(conditions)
    return Examples(_rows(arrays), np.concatenate(labels), vectors)


def _small(path: pathlib.Path) -> list[str]:
    with zipfile.ZipFile(path) as file:
        names = [name.removesuffix(".npy") for name in file.namelist()]
    return [name for name in ("labels", "conditions") if name in names]


def _rows(arrays: list[list[np.ndarray]]) -> Lazy:
    """Rows [2 or 4, *event] of all shards, one after another."""
    ends = np.cumsum([len(each[0]) for each in arrays])

    def row(number: int) -> np.ndarray:
        shard = int(np.searchsorted(ends, number, side="right"))
        place = number - int(ends[shard])  # from the end
        return np.stack([each[place] for each in arrays[shard]])

    shape = (int(ends[-1]), len(arrays[0]), *arrays[0][0].shape[1:])
    return Lazy(shape, np.float32, row)


def _mapped(path: pathlib.Path) -> list[np.ndarray]:
    """The moments of a shard, float32 [n, *event] each, mapped into memory."""
    found: list[np.ndarray] = []
    try:
        with zipfile.ZipFile(path) as file, path.open("rb") as raw:
            for name in MOMENTS:
                if f"{name}.npy" not in file.namelist():
                    continue
                info = file.getinfo(f"{name}.npy")
                with file.open(info) as array:
                    version = np.lib.format.read_magic(array)
                    header = getattr(np.lib.format, f"read_array_header_{version[0]}_0")
                    shape, _, dtype = header(array)
                    inside = array.tell()
                raw.seek(info.header_offset)
                lengths = struct.unpack("<HH", raw.read(LOCAL_HEADER)[-4:])
                start = info.header_offset + LOCAL_HEADER + sum(lengths) + inside
                found.append(np.memmap(path, dtype, "r", start, shape))
    except (OSError, ValueError, zipfile.BadZipFile, struct.error) as error:
        raise UsageError(f"{path} cannot be read: {error}") from error
    return found


def drawn(
    rng: np.random.RandomState, values: np.ndarray, *, mean_only: bool
) -> np.ndarray:
    """A latent [*event], from its moments [2, *event], or from one of two pairs.

    Args:
      rng: of the example.
      values: mean and deviation, and those of the mirrored image if there are.
      mean_only: takes the mean in place of a sample.
    """
    if len(values) > 2:
        values = values[2:] if rng.randint(2) else values[:2]
    if mean_only:
        return values[0]
    noise = rng.standard_normal(values[0].shape).astype(np.float32)
    return values[0] + values[1] * noise


def _fixed(values: Lazy, augment_fn: AugmentFn) -> Lazy:
    """Held-out latents, each sampled once: of its number, when it is indexed."""
    row = lambda number: augment_fn(np.random.RandomState([number]), values.row(number))
    return Lazy((len(values), *values.shape[2:]), np.float32, row)
