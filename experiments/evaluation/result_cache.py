"""Caches partial results on disk, so that a killed evaluation can go on."""

import hashlib
import json
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from experiments.runtime import files

Arrays = Mapping[str, np.ndarray]
Settings = Mapping[str, Any]
FOLDER = "evaluation"  # of the cache, in the workdir
SETTINGS = "settings.json"
FORMAT = 1  # of kinds and names; chunks of a different one are not used


class Chunks:
    """Stores chunks of results by name; one folder for each set of settings.

    Args:
      folder: where the chunks are.
      settings: plain JSON values, what the numbers depend on; written next to them.
    """

    def __init__(self, folder: pathlib.Path, settings: Settings):
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        files.sweep(folder)
        with files.atomic_write(folder / SETTINGS) as temporary:
            temporary.write_text(json.dumps(dict(settings), indent=2) + "\n")

    def get(self, name: str, compute: Callable[[], Arrays]) -> dict[str, np.ndarray]:
        """Reads the arrays of a chunk, or computes and stores them."""
        path = self._folder / f"{name}.npz"
        if path.exists():
            try:
                return files.read_npz(path)
            except ValueError as error:
                print(f"computing again what is corrupted: {error}", flush=True)
        arrays: dict[str, Any] = {
            key: np.asarray(value) for key, value in compute().items()
        }
        with files.atomic_write(path) as temporary, temporary.open("wb") as file:
            np.savez(file, **arrays)
        return arrays


class ResultCache:
    """On-disk cache of partial results, keyed by the settings that they depend on.

    Results of a kind stay valid when settings of another kind change.

    Args:
      folder: where the folders of the kinds are.
    """

    def __init__(self, folder: pathlib.Path):
        self._folder = folder

    def chunks(self, kind: str, settings: Settings) -> Chunks:
        """Opens the chunks of a kind and its settings, plain JSON values."""
        settings = {"format": FORMAT, **settings}
        text = json.dumps(settings, sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()[:12]
        return Chunks(self._folder / f"{kind}-{digest}", settings)

    def unused(self, weights: str, step: int, parameters: str) -> dict[str, str]:
        """Maps folders of weights with this name and step to why they are not used."""
        reasons = {}
        for path in sorted(self._folder.glob(f"*/{SETTINGS}")):
            try:
                there = files.read_json(path)
                named = there["weights"], there["step"]
                other = there["parameters"] != parameters
            except (OSError, ValueError, KeyError, TypeError):
                continue  # not of this cache
            if named == (weights, step) and (other or there.get("format") != FORMAT):
                why = "computed before the run was trained again"
                reasons[path.parent.name] = why if other else "by another version"
        return reasons
