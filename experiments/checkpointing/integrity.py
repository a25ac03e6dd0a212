"""Checksum manifests: distinguish a complete directory from a corrupted one.

The manifest is a file `CHECKSUMS.json` with the name of its directory, and size and
SHA-256 of every other file there. It is written last, so an interrupted copy has none,
and whatever is lost, truncated or altered afterwards differs from it. Orbax itself
restores an altered byte silently.
"""

import concurrent.futures
import hashlib
import json
import os
import pathlib

from experiments.runtime import files

FILE_NAME = "CHECKSUMS.json"
FORMAT = 1
UNREADABLE = (OSError, ValueError, KeyError, TypeError, AttributeError)


def write(directory: pathlib.Path, name: str) -> None:
    """Syncs every file of `directory` to disk, then writes its manifest.

    Args:
      directory: whose files are listed.
      name: that the directory will have.
    """
    with concurrent.futures.ThreadPoolExecutor() as pool:
        paths = sorted(_files(directory))
        entries = list(
            pool.map(lambda path: _entry(directory / path, sync=True), paths)
        )
    listed = dict(zip(paths, entries, strict=True))
    manifest = {"format": FORMAT, "name": name, "files": listed}
    temporary = directory / f".{FILE_NAME}.tmp"
    with temporary.open("w") as file:
        json.dump(manifest, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(directory / FILE_NAME)
    for folder in (*filter(pathlib.Path.is_dir, directory.rglob("*")), directory):
        sync_directory(folder)


def find_corruption(directory: pathlib.Path) -> str | None:
    """Describes how a directory differs from its manifest; None if it does not.

    The files must be those that the manifest lists: one more could change what is
    read, and a manifest that lists too few vouches for nothing.
    """
    try:
        name, entries = _read(directory)
    except FileNotFoundError:
        return f"it has no {FILE_NAME}, as after an interrupted copy"
    except UNREADABLE as error:
        return f"its {FILE_NAME} cannot be read ({type(error).__name__})"
    if name != directory.name:
        return f"it was saved under the name {name}"
    if foreign := sorted(set(_files(directory)) - entries.keys()):
        return f"it holds {foreign[0]}, which its {FILE_NAME} does not list"
    faults = (_size_fault(directory, name, entries[name]) for name in entries)
    fault = next(filter(None, faults), None)
    if fault is not None:
        return fault
    with concurrent.futures.ThreadPoolExecutor() as pool:
        check_fn = lambda name: _content_fault(directory, name, entries[name])
        return next(filter(None, pool.map(check_fn, entries)), None)


def _size_fault(
    directory: pathlib.Path, name: str, entry: dict[str, int | str]
) -> str | None:
    path = directory / name
    if not path.is_file():
        return f"{name} is missing"
    size, wanted = path.stat().st_size, entry["size"]
    return None if size == wanted else f"{name} has {size} bytes, not {wanted}"


def _content_fault(
    directory: pathlib.Path, name: str, entry: dict[str, int | str]
) -> str | None:
    try:
        same = _entry(directory / name, sync=False) == entry
    except OSError as error:
        return f"{name} cannot be read ({error})"
    return None if same else f"{name} was altered: its checksum differs"


def has_only_listed_files(directory: pathlib.Path) -> bool:
    """Returns whether the manifest lists every file, so that none is foreign."""
    try:
        name, entries = _read(directory)
    except UNREADABLE:
        return False
    return name == directory.name and set(entries) == set(_files(directory))


def sync_directory(directory: pathlib.Path) -> None:
    """Syncs the names in a directory to disk."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read(directory: pathlib.Path) -> tuple[str, dict[str, dict[str, int | str]]]:
    """Reads the directory's name and the entries of its files from the manifest."""
    manifest = files.read_json(directory / FILE_NAME)
    return manifest["name"], {
        name: {"size": entry["size"], "sha256": entry["sha256"]}
        for name, entry in manifest["files"].items()
    }


def _files(directory: pathlib.Path) -> list[str]:
    """Lists every file below `directory` except the manifest, by its relative path."""
    paths = (path for path in directory.rglob("*") if not path.is_dir())
    names = (path.relative_to(directory).as_posix() for path in paths)
    return [name for name in names if name != FILE_NAME]


def _entry(path: pathlib.Path, *, sync: bool) -> dict[str, int | str]:
    with path.open("rb") as file:
        if sync:
            os.fsync(file.fileno())
        digest = hashlib.file_digest(file, "sha256")
        return {"size": file.tell(), "sha256": digest.hexdigest()}
