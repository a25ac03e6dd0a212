"""Results computed in parts, which a killed run leaves and the next one finds."""

import hashlib
import json
import pathlib
import zipfile
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from experiments.runtime import files

Arrays = Mapping[str, np.ndarray]
Settings = Mapping[str, Any]
SETTINGS = "settings.json"
FORMAT = 1  # of kinds and names; parts of another one are not found


class Parts:
    """Arrays on disk by name; one folder for each set of settings.

    Args:
      folder: where the parts are.
      settings: plain JSON values, what the numbers depend on; written next to them.
    """

    def __init__(self, folder: pathlib.Path, settings: Settings):
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        files.sweep(folder)
        with files.atomic_write(folder / SETTINGS) as temporary:
            temporary.write_text(json.dumps(dict(settings), indent=2) + "\n")

    def get(self, name: str, compute: Callable[[], Arrays]) -> dict[str, np.ndarray]:
        """The arrays of a part: found whole where they are, or computed and kept."""
        path = self._folder / f"{name}.npz"
        if path.exists():
            try:
                with np.load(path) as file:
                    return {key: file[key] for key in file.files}
            except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
                print(f"computing again what is corrupted: {path}: {error}", flush=True)
        arrays: dict[str, Any] = {
            key: np.asarray(value) for key, value in compute().items()
        }
        with files.atomic_write(path) as temporary, temporary.open("wb") as file:
            np.savez(file, **arrays)
        return arrays


class ResultCache:
    """Parts of several kinds, each kept by the settings that it depends on.

    So a kind is found again when settings of another one have changed.

    Args:
      folder: where the folders of the kinds are.
    """

    def __init__(self, folder: pathlib.Path):
        self._folder = folder

    def parts(self, kind: str, settings: Settings) -> Parts:
        """Those of a kind and its settings, plain JSON values."""
        settings = {"format": FORMAT, **settings}
        text = json.dumps(settings, sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()[:12]
        return Parts(self._folder / f"{kind}-{digest}", settings)

    def left_out(self, weights: str, step: int, parameters: str) -> dict[str, str]:
        """Folders of what are called these weights, and why they are not taken."""
        found = {}
        for path in sorted(self._folder.glob(f"*/{SETTINGS}")):
            try:
                there = json.loads(path.read_text())
                named = there["weights"], there["step"]
                other = there["parameters"] != parameters
            except (OSError, ValueError, KeyError, TypeError):
                continue  # nothing of ours, and not read
            if named == (weights, step) and (other or there.get("format") != FORMAT):
                why = "other weights, before the run was trained again"
                found[path.parent.name] = why if other else "another version"
        return found
