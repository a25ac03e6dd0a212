"""Files of the Hugging Face hub, by `hf://owner/name[@revision][/path]`."""

import pathlib
import re
from collections.abc import Iterable
from typing import Any, NamedTuple

PLACE = re.compile(r"hf:/{1,2}([^/@]+/[^/@]+)(?:@([^/@]+))?(?:/(.+?))?/?")
STEM = "diffusion_pytorch_model"
IN_FOLDER = (  # names of weights in a folder; the first that exists is read
    f"{STEM}.safetensors",
    f"{STEM}.safetensors.index.json",
    f"{STEM}.bin",
    f"{STEM}.bin.index.json",
)
FILES = (".safetensors", ".npz", ".bin", ".pt", ".pth")
CONFIGS = (
    "config.json",
    "scheduler_config.json",
    "model_index.json",
    "training_options.json",
)


class Place(NamedTuple):
    """A place on the hub: "owner/name", a revision or None, a path inside or ""."""

    repository: str
    revision: str | None
    path: str


def local_path(path: str | pathlib.Path, parts: Iterable[str] = ("",)) -> pathlib.Path:
    """Returns a local path as it is, and downloads what is read of one on the hub.

    Of a repository its configs are fetched and the weights of one folder; files that
    are in the cache are not fetched again, and serve where there is no network.

    Args:
      path: of a file or folder; or `hf://owner/name[@revision][/path]`, of a
        repository of the hub, a folder in it, or a file of weights.
      parts: folders of a repository, each ending in "/" or "" for itself; the weights
        are those of the first that has some.

    Raises:
      ValueError: it is no such place, huggingface_hub is not installed, or what is
        read cannot be fetched and is not in its cache.
    """
    if not str(path).startswith("hf:"):
        return pathlib.Path(path)
    match = PLACE.fullmatch(str(path))
    if match is None:
        raise ValueError(f"{str(path)!r}: must be hf://owner/name[@revision][/path]")
    place = Place(match[1], match[2], match[3] or "")
    try:
        import huggingface_hub
    except ModuleNotFoundError as error:
        raise ValueError(
            f"{path}: needs huggingface_hub: pip install huggingface_hub, or give a "
            "local folder"
        ) from error
    inside = tuple(parts) if not place.path else (f"{place.path}/",)
    found = _fetched(huggingface_hub, place, inside) / place.path
    if not found.exists():
        raise ValueError(f"{path}: no {place.path!r} in this repository")
    return found


def _fetched(hub: Any, place: Place, parts: Iterable[str]) -> pathlib.Path:
    """Downloads the files of a snapshot that are read, and returns their folder."""
    names = dict(repo_id=place.repository, revision=place.revision)
    try:
        if place.path.endswith(FILES):
            folder = place.path.rpartition("/")[0]
            wanted = [place.path, f"{folder}/{CONFIGS[-1]}".lstrip("/")]
        else:
            wanted = _wanted(hub.HfApi().list_repo_files(**names), parts)
        return pathlib.Path(hub.snapshot_download(**names, allow_patterns=wanted))
    except Exception as error:  # of a network, of many kinds
        try:
            return pathlib.Path(hub.snapshot_download(**names, local_files_only=True))
        except Exception:
            detail = " ".join(str(error).split())[:200] or type(error).__name__
            raise ValueError(
                f"hf://{place.repository} cannot be fetched and is not in the cache: "
                f"give a local folder; {detail}"
            ) from error


def _wanted(files: Iterable[str], parts: Iterable[str]) -> list[str]:
    """Lists the files that are read: configs, and the weights of one folder."""
    files = list(files)
    wanted = [name for name in files if name.rpartition("/")[2] in CONFIGS]
    for part in parts:
        first = next((name for name in IN_FOLDER if part + name in files), None)
        if first is None:
            continue
        kind = ".safetensors" if ".safetensors" in first else ".bin"
        shards = [
            name
            for name in files
            if name.startswith(f"{part}{STEM}-") and name.endswith(kind)
        ]
        return [*wanted, part + first, *(shards if "index" in first else ())]
    return wanted
