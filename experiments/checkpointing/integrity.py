"""Checksum manifests: tell a complete directory from a corrupted one.

A seal is a file `SEAL.json` with the name of its directory, and size and SHA-256 of
every other file there. It is written last, so a copy that was interrupted has none, and
whatever is lost, cut or altered afterwards differs from it. Orbax itself restores an
altered byte in silence.
"""

import concurrent.futures
import hashlib
import json
import os
import pathlib

FILE_NAME = "SEAL.json"
FORMAT = 1
UNREADABLE = (OSError, ValueError, KeyError, TypeError, AttributeError)


def write(directory: pathlib.Path, name: str) -> None:
    """Puts every file of `directory` on disk for good, then its seal.

    Args:
      directory: what to seal.
      name: that the directory will have.
    """
    with concurrent.futures.ThreadPoolExecutor() as pool:
        paths = sorted(_files(directory))
        entries = list(
            pool.map(lambda path: _entry(directory / path, sync=True), paths)
        )
    files = dict(zip(paths, entries, strict=True))
    seal = {"format": FORMAT, "name": name, "files": files}
    temporary = directory / f".{FILE_NAME}.tmp"
    with temporary.open("w") as file:
        json.dump(seal, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(directory / FILE_NAME)
    for folder in (*filter(pathlib.Path.is_dir, directory.rglob("*")), directory):
        sync_directory(folder)


def find_corruption(directory: pathlib.Path) -> str | None:
    """What is wrong with a sealed directory, in words; None if nothing is.

    Files that the seal does not name are no fault.
    """
    try:
        name, sealed = _sealed(directory)
    except FileNotFoundError:
        return f"it has no {FILE_NAME}, as after an interrupted copy"
    except UNREADABLE as error:
        return f"its {FILE_NAME} cannot be read ({type(error).__name__})"
    if name != directory.name:
        return f"it was saved under the name {name}"
    faults = (_size_fault(directory, name, sealed[name]) for name in sealed)
    found = next(filter(None, faults), None)
    if found is not None:
        return found
    with concurrent.futures.ThreadPoolExecutor() as pool:
        check_fn = lambda name: _content_fault(directory, name, sealed[name])
        return next(filter(None, pool.map(check_fn, sealed)), None)


def _size_fault(
    directory: pathlib.Path, name: str, entry: dict[str, int | str]
) -> str | None:
    path = directory / name
    if not path.is_file():
        return f"{name} is missing"
    size, sealed = path.stat().st_size, entry["size"]
    return None if size == sealed else f"{name} has {size} bytes, not {sealed}"


def _content_fault(
    directory: pathlib.Path, name: str, entry: dict[str, int | str]
) -> str | None:
    try:
        same = _entry(directory / name, sync=False) == entry
    except OSError as error:
        return f"{name} cannot be read ({error})"
    return None if same else f"{name} was altered: its checksum differs"


def holds_only_sealed(directory: pathlib.Path) -> bool:
    """Whether the files are those of the seal, by name: then none is anyone else's."""
    try:
        name, sealed = _sealed(directory)
    except UNREADABLE:
        return False
    return name == directory.name and set(sealed) == set(_files(directory))


def sync_directory(directory: pathlib.Path) -> None:
    """Puts the names in a directory on disk for good."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sealed(directory: pathlib.Path) -> tuple[str, dict[str, dict[str, int | str]]]:
    """Name of the directory, and the entries of its files, as they were sealed."""
    seal = json.loads((directory / FILE_NAME).read_text())
    return seal["name"], {
        name: {"size": entry["size"], "sha256": entry["sha256"]}
        for name, entry in seal["files"].items()
    }


def _files(directory: pathlib.Path) -> list[str]:
    """Every file below `directory` but the seal, by its path from there."""
    found = (path for path in directory.rglob("*") if not path.is_dir())
    names = (path.relative_to(directory).as_posix() for path in found)
    return [name for name in names if name != FILE_NAME]


def _entry(path: pathlib.Path, *, sync: bool) -> dict[str, int | str]:
    with path.open("rb") as file:
        if sync:
            os.fsync(file.fileno())
        digest = hashlib.file_digest(file, "sha256")
        return {"size": file.tell(), "sha256": digest.hexdigest()}
