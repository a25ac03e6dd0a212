"""Results computed in parts, which a killed run leaves and the next one finds."""

import json
import pathlib
import zipfile
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from experiments import shards

Arrays = Mapping[str, np.ndarray]


class Parts:
    """Arrays on disk by name; one folder for each set of settings.

    Args:
      folder: where the parts are.
      settings: plain JSON values, what the numbers depend on; written beside them.
    """

    def __init__(self, folder: pathlib.Path, settings: Mapping[str, Any]):
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        shards.sweep(folder)
        with shards.whole(folder / "settings.json") as temporary:
            temporary.write_text(json.dumps(dict(settings), indent=2) + "\n")

    def get(self, name: str, compute: Callable[[], Arrays]) -> dict[str, np.ndarray]:
        """The arrays of a part: found whole where they are, or computed and kept."""
        path = self._folder / f"{name}.npz"
        if path.exists():
            try:
                with np.load(path) as file:
                    return {key: file[key] for key in file.files}
            except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
                print(f"computing again what is damaged: {path}: {error}", flush=True)
        arrays = {key: np.asarray(value) for key, value in compute().items()}
        with shards.whole(path) as temporary, temporary.open("wb") as file:
            np.savez(file, **arrays)
        return arrays
