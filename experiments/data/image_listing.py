"""Which files of a folder are images, and the classes of its subfolders."""

import os
import pathlib
import re

from PIL import Image

from experiments.data.class_labels import natural

SUFFIXES = (".bmp", ".jfif", ".jpe", ".jpeg", ".jpg", ".png", ".webp")
NEVER_READ = (".heic", ".heif", ".jxl")  # images, but not of Pillow by itself
NO_IMAGES = ("BUFR", "GRIB", "HDF5", "MPEG", "PDF")  # formats that Pillow knows, too
NO_TEXT = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
FILES_ALONE = ["."]  # the names of the classes, where there are no subfolders

Labelled = list[tuple[pathlib.Path, int]]  # files, each with the number of its class


def classes(path: str) -> list[str]:
    """Lists the subfolders, hidden ones aside, in order; `FILES_ALONE` if none."""
    if not pathlib.Path(path).is_dir():
        raise ValueError(f"path={path!r}: no such folder")
    images, names = [], []
    for entry in _entries(path):
        if _is_image(entry.name):  # a folder of such a name, too
            images.append(entry.path)
        elif entry.is_dir():
            names.append(entry.name)
    if names and images:
        raise ValueError(
            f"{images[0]}: an image next to the folders of the classes: move it into "
            "the one of its class"
        )
    return sorted(names, key=natural) or FILES_ALONE


def listed(path: str, names: list[str]) -> Labelled:
    """Lists the image files of each class, sorted, with the number of the class."""
    found, left_out = [], []
    for label, name in enumerate(names):
        folder = pathlib.Path(path) / name
        for entry in _entries(folder):
            inside = _images(folder / entry.name) if entry.is_dir() else []
            if _suffix(entry.name) in SUFFIXES and not inside:
                found += [(folder / entry.name, label)]
            elif inside or _is_image(entry.name):
                left_out += inside or [folder / entry.name]
    if left_out:
        raise ValueError(
            f"{path}: {len(left_out):,} images would be left out, such as "
            f"{left_out[0].relative_to(path)}: what is read is {', '.join(SUFFIXES)} "
            "directly in the folder of a class; convert or move them"
        )
    check_filled(path, names, found)
    return found


def check_filled(path: str, names: list[str], found: Labelled) -> None:
    """Raises a ValueError if a class has no file."""
    empty = {*range(len(names))} - {label for _, label in found}
    if empty:
        where = pathlib.Path(path) / names[min(empty)]
        raise ValueError(f"{where}: no image in it; known: {', '.join(SUFFIXES)}")


def _entries(folder: str | pathlib.Path) -> list[os.DirEntry]:
    """Lists what is in a folder, hidden entries aside, sorted by name.

    Raises:
      ValueError: a name is no text, which could neither be printed nor stored.
    """
    with os.scandir(folder) as entries:
        shown = [entry for entry in entries if not entry.name.startswith(".")]
    for entry in shown:
        if NO_TEXT.search(entry.name):
            raise ValueError(
                f"{os.fspath(folder)!a}: the name {entry.name!a} is no UTF-8, or has "
                "characters such as a line break; rename it"
            )
    return sorted(shown, key=lambda entry: entry.name)


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def _images(folder: pathlib.Path) -> list[pathlib.Path]:
    """Finds the files that are images by name, anywhere below a folder."""
    found = []
    for root, folders, names in os.walk(folder, onerror=_raise):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [pathlib.Path(root) / name for name in names if _is_image(name)]
    return sorted(found)


def _raise(error: OSError) -> None:
    raise error


def _is_image(name: str) -> bool:
    """Returns whether a file is an image by its suffix, and not hidden."""
    suffix = _suffix(name)
    if name.startswith(".") or not suffix:
        return False
    if suffix in SUFFIXES + NEVER_READ:
        return True
    known = Image.registered_extensions()
    return known.get(suffix, NO_IMAGES[0]) not in NO_IMAGES
