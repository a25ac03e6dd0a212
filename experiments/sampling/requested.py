"""The conditions of the samples that are asked for.

Vectors are those of a file, or of the held-out examples, in order and over again.
"""

import pathlib

import numpy as np

from experiments.checkpointing.loaded import Loaded, real_data
from experiments.data import npz_entries
from experiments.data.base import Examples
from experiments.data.regular_file import check_regular
from experiments.runtime.errors import UsageError, naming, require
from experiments.sampling import conditions
from experiments.sampling.conditions import Conditions


def of_samples(loaded: Loaded, held_out: Examples | None = None) -> Conditions:
    """Finds what the samples of a request are conditioned on.

    Args:
      loaded: with a complete request.
      held_out: the held-out examples of the run; None if they are to be read where
        their vectors are asked for.

    Raises:
      UsageError: the data have no vectors and some are given, those given do not fit,
        or the data are missing or different.
    """
    request, model, count = loaded.request, loaded.model, loaded.request.num_samples
    labels = conditions.labels_in_turn(count, model.num_classes)
    if request.label is not None:
        labels = np.full(count, request.label, np.int32)
    if not model.vector_features:
        bound = "left out: the data have no conditions"
        require("conditions", request.conditions, request.conditions is None, bound)
        return Conditions(labels)
    if request.conditions is not None:
        vectors = _of_file(request.conditions, loaded)
        return Conditions(labels, vectors[np.arange(count) % len(vectors)])
    if held_out is None:
        held_out = _held_out(loaded)
    found = conditions.of_examples(held_out, count)
    return found if request.label is None else found._replace(labels=labels)


def _held_out(loaded: Loaded) -> Examples:
    try:
        return real_data(loaded).test
    except UsageError as error:
        raise UsageError(
            f"{error}; without --conditions=FILE the samples have the conditions of "
            "the held-out examples"
        ) from error


def _of_file(path: str, loaded: Loaded) -> np.ndarray:
    """Reads the vectors of an `.npy`, or of an `.npz` with the entries of the data."""
    suffix = pathlib.Path(path).suffix
    require("conditions", path, suffix in (".npy", ".npz"), "a file .npy or .npz")
    names = loaded.config["data"].get("conditions", npz_entries.DEFAULTS.conditions)
    with naming(f"conditions={path!r}"):
        arrays = npz_entries.read_npz(path) if suffix == ".npz" else read_npy(path)
        if suffix == ".npy":
            names = next(iter(arrays))
        found = npz_entries.conditions(arrays, names)
        if found is None:
            npz_entries.array(arrays, names)
    wanted = loaded.model.vector_features
    if found.shape[1] != wanted:
        raise UsageError(
            f"conditions={path!r}: {found.shape[1]} features each, and those of the "
            f"data have {wanted}"
        )
    return found


def read_npy(path: str) -> dict[str, np.ndarray]:
    """Reads the array of an `.npy` file."""
    try:
        check_regular(path)
        found = np.load(path, allow_pickle=False)
        if not isinstance(found, np.ndarray):
            raise ValueError("it holds several arrays: name it .npz")
        return {"array": found}
    except Exception as error:  # whatever a corrupted file raises
        raise ValueError(f"no readable .npy file: {error}") from error
