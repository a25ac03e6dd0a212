"""Reads a folder of moments of latents that `diffusionflow encode` wrote.

`index.json` lists the shards of both parts with their sizes and the checksums that
their archives name. Moments are read row by row from the files, so that a folder may be
larger than memory, and no file stays open, so that it may have any number of shards;
labels and conditions are read at once.
"""

import functools
import math
import pathlib
import struct
import zipfile
from collections.abc import Mapping
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from experiments.data.base import AugmentFn, DataSet, DataTransform, Examples, Lazy
from experiments.data.fingerprint import digest_of
from experiments.runtime import files
from experiments.runtime.errors import UsageError

FORMAT = 1
INDEX = "index.json"
MOMENTS = ("mean", "std", "mean_flipped", "std_flipped")
LOCAL_HEADER = 30  # bytes of a zip file's, before a name and extra fields
PARTS = ("train", "test")
AGAIN = "run diffusionflow encode again, which makes what is missing"
Entry = Mapping[str, Any]


class Array(NamedTuple):
    """Where an array [n, *event] lies in a file, uncompressed.

    Fields:
      path: of the file.
      dtype: of the values.
      start: byte where they begin.
      shape: of the array.
    """

    path: pathlib.Path
    dtype: np.dtype
    start: int
    shape: tuple[int, ...]

    def row(self, file: BinaryIO, number: int) -> np.ndarray:
        """Reads row `number`, [*event], of the open file."""
        event = self.shape[1:]
        size = math.prod(event) * self.dtype.itemsize
        file.seek(self.start + number * size)
        content = file.read(size)
        if len(content) < size:
            raise ValueError(f"{self.path} ends inside row {number}: it was changed")
        return np.frombuffer(content, self.dtype).reshape(event)


def entry(folder: pathlib.Path, path: pathlib.Path, count: int) -> dict[str, Any]:
    """Makes the entry of a shard in the index.

    Args:
      folder: of the index.
      path: of the shard.
      count: of its examples.
    """
    name = path.relative_to(folder).as_posix()
    return {"file": name, "count": count, "digest": archive_digest(path)}


def archive_digest(path: pathlib.Path) -> str:
    """Digests the names, sizes and checksums in an archive's directory."""
    with zipfile.ZipFile(path) as file:
        listed = [(each.filename, each.file_size, each.CRC) for each in file.infolist()]
    return digest_of(listed)


def read(folder: pathlib.Path, *, mean_only: bool = False) -> DataSet:
    """Reads the data set of a folder of latents.

    A training example is sampled from its moments, or from those of its mirror image
    where there are some, half of the time; a held-out one is sampled once.

    Args:
      folder: with an `index.json`.
      mean_only: takes the mean in place of a sample.

    Raises:
      ValueError: the folder is not complete, or a shard is missing or another one.
    """
    index = read_index(folder)
    train, test = (_part(folder, index["shards"][name]) for name in PARTS)
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


def read_index(folder: pathlib.Path) -> dict[str, Any]:
    """Reads the index of a folder of latents.

    Raises:
      ValueError: there is none, or it is corrupted.
    """
    path = folder / INDEX
    if not path.is_file():
        raise ValueError(
            f"{folder}: no {INDEX}: must be a folder that diffusionflow encode has "
            "completed; its command goes on where it was stopped"
        )
    try:
        found = files.read_json(path)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is corrupted: {error}; {AGAIN}") from error
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise ValueError(f"{path}: must be of format {FORMAT}; encode the data again")
    if not _is_index(found):
        raise ValueError(
            f"{path} is corrupted: must have num_classes, class_names, and shards of "
            f"{' and '.join(PARTS)} with file and digest; {AGAIN}"
        )
    return found


def _is_index(found: Mapping[str, Any]) -> bool:
    """Returns whether an index has what is read of it."""
    shards = found.get("shards")
    listed = [shards.get(name) for name in PARTS] if isinstance(shards, dict) else []
    return (
        isinstance(found.get("num_classes"), int)
        and isinstance(found.get("class_names"), list)
        and bool(listed)
        and all(isinstance(part, list) and part for part in listed)
        and all(_is_entry(each) for part in listed for each in part)
    )


def _is_entry(each: Any) -> bool:
    names = ("file", "digest")
    return isinstance(each, dict) and all(isinstance(each.get(n), str) for n in names)


def _part(folder: pathlib.Path, listed: list[Entry]) -> Examples:
    """Reads the examples of a part; their moments are read when they are indexed."""
    arrays, labels, conditions = [], [], []
    for each in listed:
        path = folder / each["file"]
        if not _is_listed(path, each["digest"]):
            raise ValueError(
                f"{path} is missing, or another file than {INDEX} lists: {AGAIN}"
            )
        arrays.append(_moments(path))
        small = files.read_npz(path, *_small(path))
        labels.append(small["labels"])
        conditions.append(small.get("conditions"))
    vectors = None if conditions[0] is None else np.concatenate(conditions)
    return Examples(_rows(arrays), np.concatenate(labels), vectors)


def _is_listed(path: pathlib.Path, digest: str) -> bool:
    """Returns whether a shard is there, with the checksums of the index."""
    try:
        return path.is_file() and archive_digest(path) == digest
    except zipfile.BadZipFile:
        return False


def _small(path: pathlib.Path) -> list[str]:
    with zipfile.ZipFile(path) as file:
        names = [name.removesuffix(".npy") for name in file.namelist()]
    return [name for name in ("labels", "conditions") if name in names]


def _rows(arrays: list[list[Array]]) -> Lazy:
    """Makes an array of the rows [2 or 4, *event] of all shards, one after another."""
    ends = np.cumsum([each[0].shape[0] for each in arrays])

    def row(number: int) -> np.ndarray:
        shard = int(np.searchsorted(ends, number, side="right"))
        (path, *_, (count, *_)), listed = arrays[shard][0], arrays[shard]
        place = number - int(ends[shard]) + count
        with path.open("rb") as file:
            return np.stack([each.row(file, place) for each in listed])

    shape = (int(ends[-1]), len(arrays[0]), *arrays[0][0].shape[1:])
    return Lazy(shape, np.float32, row)


def _moments(path: pathlib.Path) -> list[Array]:
    """Finds where the moments of a shard are, float32 [n, *event] each."""
    found: list[Array] = []
    try:
        with zipfile.ZipFile(path) as file, path.open("rb") as raw:
            for name in MOMENTS:
                if f"{name}.npy" not in file.namelist():
                    continue
                info = file.getinfo(f"{name}.npy")
                with file.open(info) as array:
                    version = np.lib.format.read_magic(array)
                    header = getattr(np.lib.format, f"read_array_header_{version[0]}_0")
                    shape, columns_first, dtype = header(array)
                    inside = array.tell()
                if columns_first or info.compress_type != zipfile.ZIP_STORED:
                    raise ValueError(f"{name} must be uncompressed, its rows in order")
                raw.seek(info.header_offset)
                lengths = struct.unpack("<HH", raw.read(LOCAL_HEADER)[-4:])
                start = info.header_offset + LOCAL_HEADER + sum(lengths) + inside
                found.append(Array(path, dtype, start, shape))
    except (OSError, ValueError, zipfile.BadZipFile, struct.error) as error:
        raise UsageError(f"{path} cannot be read: {error}") from error
    return found


def drawn(
    rng: np.random.RandomState, values: np.ndarray, *, mean_only: bool
) -> np.ndarray:
    """Samples a latent [*event] from its moments [2, *event], or from one of two pairs.

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
    """Samples each held-out latent once, seeded by its number, when it is indexed."""
    row = lambda number: augment_fn(np.random.RandomState([number]), values.row(number))
    return Lazy((len(values), *values.shape[2:]), np.float32, row)
