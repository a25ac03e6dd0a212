"""Writes samples in shards, so that a killed sampling run resumes where it was.

While sampling is under way, `NAME.shards/` holds `settings.json`, a lock, and one
`.npz` for each finished shard, written under another name and then renamed. At the
end the shards become `NAME.npz`, one after another, so that memory is bounded by one.
"""

import contextlib
import itertools
import json
import pathlib
import shutil
import zipfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from experiments.runtime import files
from experiments.runtime.errors import UsageError

Settings = Mapping[str, Any]
SUFFIXES = (".npz", ".shards", ".png")  # of the result, samples under way, the picture


class Shards:
    """The files of one sampling run.

    Args:
      path: of the result, without suffix.
      settings: plain JSON values, what the numbers depend on and `shard_size`.
      count: number of samples.
      size: samples in a shard; the last one may have fewer.

    Raises:
      UsageError: there is a result, or an unfinished one, with other settings.
    """

    def __init__(
        self, path: pathlib.Path, settings: Settings, *, count: int, size: int
    ):
        self.result, self.folder, _ = (
            path.with_name(path.name + suffix) for suffix in SUFFIXES
        )
        self.bounds = [
            (start, min(start + size, count)) for start in range(0, count, size)
        ]
        self._settings = dict(settings)
        where, stored = _stored(self.result, self.folder)
        if where is None and not _is_begun(self.folder):
            raise UsageError(
                f"{self.folder} was not written by this command: choose another --out, "
                "or move it away"
            )
        if where is not None:
            here = self._lasting() if where == self.result else self._settings
            check_same(where, stored, here)

    def _lasting(self) -> dict[str, Any]:
        """Returns the settings that the result keeps."""
        return {
            key: self._settings[key] for key in self._settings if key != "shard_size"
        }

    def complete(self) -> bool:
        """Returns whether the result is there; shards, then needless, are removed."""
        if self.result.exists():
            shutil.rmtree(self.folder, ignore_errors=True)
        return self.result.exists()

    def begin(self, stack: contextlib.ExitStack) -> None:
        """Makes the folder and holds it; removes what a killed run left half written.

        Args:
          stack: until it is left, no other process writes this.

        Raises:
          UsageError: another one does.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        if not files.acquire_lock(stack, self.folder / ".lock"):
            raise UsageError(
                f"another process is writing {self.folder}: wait until it has ended, "
                "or choose another --out"
            )
        files.sweep(self.folder)
        with files.atomic_write(self.folder / "settings.json") as temporary:
            temporary.write_text(json.dumps(self._settings, indent=2) + "\n")

    def write(self, number: int, outside: int = 0, **arrays: np.ndarray) -> None:
        """Writes shard `number`.

        Args:
          number: of the shard.
          outside: how many values were clamped.
          **arrays: by name, the same in every shard, with a row for each sample.
        """
        with (
            files.atomic_write(self.path(number)) as temporary,
            temporary.open("wb") as file,
        ):
            entries: dict[str, Any] = {**arrays, "outside": np.int64(outside)}
            np.savez(file, **entries)

    def read(self, number: int, *names: str) -> dict[str, np.ndarray]:
        """Reads arrays of a finished shard, by name: those of `names`, or all.

        Raises:
          ValueError: it is missing or corrupted: zip files carry checksums.
        """
        start, stop = self.bounds[number]
        path = self.path(number)
        found = files.read_npz(path, *names)
        for name, array in found.items():
            if name != "outside" and len(array) != stop - start:
                raise ValueError(f"{path}: {len(array)} {name}, not {stop - start}")
        return found

    def finished(self, number: int) -> bool:
        """Returns whether shard `number` is there and whole, and reports corruption."""
        if not self.path(number).exists():
            return False
        try:
            self.read(number)
        except ValueError as error:
            print(f"made again, as it is corrupted: {error}", flush=True)
            return False
        return True

    def missing(self, skip_fn: Callable[[int], Any]) -> Iterator[tuple[int, int, int]]:
        """Yields the shards that are not there, `(number, start, stop)`, in order.

        Args:
          skip_fn: called with the number of rows of each shard that is.
        """
        for number, (start, stop) in enumerate(self.bounds):
            if self.finished(number):
                skip_fn(stop - start)
            else:
                yield number, start, stop

    def num_finished(self) -> int:
        """Counts the shards that are there."""
        return sum(self.path(number).exists() for number in range(len(self.bounds)))

    def first(self, count: int, name: str = "samples") -> np.ndarray:
        """Reads the first rows of an array, `count` of them or all."""
        parts = []
        for number, (start, _) in enumerate(self.bounds):
            if start >= count:
                break
            parts.append(self.read(number, name)[name])
        return np.concatenate(parts)[:count]

    def remove_empty(self) -> None:
        """Removes the folder where no shard is in it, as after an error."""
        if not self.num_finished():
            shutil.rmtree(self.folder, ignore_errors=True)

    def conclude(self, **entries: Any) -> int:
        """Writes the result, with `entries` next to the arrays; removes the shards.

        Returns:
          How many values were clamped.
        """
        numbers = range(len(self.bounds))
        outside = sum(int(self.read(n, "outside")["outside"]) for n in numbers)
        with (
            files.atomic_write(self.result) as temporary,
            zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as file,
        ):
            for name, one in self.read(0).items():
                if name != "outside":
                    self._join(file, name, one)
            entries["settings"] = json.dumps(self._lasting())
            for name, value in entries.items():
                with file.open(f"{name}.npy", "w", force_zip64=True) as entry:
                    np.lib.format.write_array(entry, np.asarray(value))
        shutil.rmtree(self.folder, ignore_errors=True)  # another process may do it too
        return outside

    def _join(self, file: zipfile.ZipFile, name: str, first: np.ndarray) -> None:
        """Writes an array, shard after shard; `first` is that of shard 0."""
        with file.open(f"{name}.npy", "w", force_zip64=True) as entry:
            first = np.ascontiguousarray(first)
            header = np.lib.format.header_data_from_array_1_0(first)
            header["shape"] = (self.bounds[-1][1], *first.shape[1:])
            np.lib.format.write_array_header_2_0(entry, header)
            for number in range(len(self.bounds)):
                part = self.read(number, name)[name]
                entry.write(np.ascontiguousarray(part).tobytes())

    def path(self, number: int) -> pathlib.Path:
        """Returns the path of shard `number`."""
        return self.folder / f"{self.bounds[number][0]:09d}.npz"


def _is_begun(folder: pathlib.Path) -> bool:
    """Returns whether a folder is missing, or has only what a killed start leaves."""
    if not folder.exists():
        return True
    return folder.is_dir() and all(
        path.name == ".lock" or path.suffix == ".tmp" for path in folder.iterdir()
    )


def quarantine(path: pathlib.Path, name: str, value: Any) -> str | None:
    """Renames a result and its picture if a setting has another value there.

    Args:
      path: of the result, without suffix.
      name: of the setting.
      value: of it here.

    Returns:
      The new name, without suffix; None where nothing was renamed.
    """
    paths = [path.with_name(path.name + suffix) for suffix in SUFFIXES]
    where, stored = _stored(paths[0], paths[1])
    if where is None or stored.get(name) == value:
        return None
    names = (f"{path.name}_{name}_{stored.get(name)}_{n}" for n in itertools.count(1))
    taken = lambda new: any(path.with_name(new + end).exists() for end in SUFFIXES)
    new = next(itertools.filterfalse(taken, names))
    renames = list(zip(paths, SUFFIXES, strict=True))
    for old, suffix in renames[::-1]:  # last the file by which a result is recognised
        if old.exists():
            old.rename(path.with_name(new + suffix))
    return new


def _stored(
    result: pathlib.Path, folder: pathlib.Path
) -> tuple[pathlib.Path | None, Settings]:
    """Finds a result, finished or not, and its settings; None where there is none."""
    if result.exists():
        return result, _settings_of(result)
    if (folder / "settings.json").exists():
        path = folder / "settings.json"
        try:
            return folder, dict(files.read_json(path))
        except (OSError, TypeError, ValueError) as error:
            raise UsageError(
                f"{path} is corrupted: {error}; choose another --out, or move the "
                "folder away"
            ) from error
    return None, {}


def _settings_of(result: pathlib.Path) -> Settings:
    try:
        stored = files.read_npz(result, "settings")["settings"]
        return dict(files.parse_json(str(stored)))
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"{result} was not written by this command: choose another --out, or "
            "delete it"
        ) from error


def check_same(where: pathlib.Path, there: Settings, here: Settings) -> None:
    """Refuses what was made with other settings.

    Args:
      where: it is.
      there: its settings.
      here: those asked for.

    Raises:
      UsageError: they differ; it names each difference.
    """
    differences = [
        f"{name} {there.get(name)!r} there, {here.get(name)!r} now"
        for name in sorted(there.keys() | here.keys())
        if there.get(name) != here.get(name)
    ]
    if differences:
        raise UsageError(
            f"{where} was made with other settings: {'; '.join(differences)}; give the "
            "same ones, choose another --out, or delete it"
        )
