"""Weights in published layouts, read as arrays: nothing is unpickled that runs code."""

import io
import json
import pathlib
import pickle
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from diffusionflow.interop.hub import FILES, IN_FOLDER, local_path

TORCH = (".bin", ".pt", ".pth")
INDEX = ".index.json"
MOST_NAMES = 12  # of a list in a message
UNSAFE = object()
AT_ONCE = 4  # arrays that are read from an open file
# of the types of safetensors, such as BF16; BOOL has NumPy's own name
LETTERS = {"F": "float", "BF": "bfloat", "I": "int", "U": "uint", "C": "complex"}
Put = Callable[[np.ndarray], Any]
Source = pathlib.Path | io.BytesIO


def read_weights(
    path: str | pathlib.Path, *, put: Put = np.asarray, content: bytes | None = None
) -> dict[str, Any]:
    """Reads the arrays of a file or a folder by name, in the types they are stored in.

    Args:
      path: a file `.safetensors` (by safetensors, without torch), `.bin`, `.pt` or
        `.pth` (by torch, with `weights_only=True`), `.npz`, or the index
        `.index.json` of several; or a folder with one of the names `IN_FOLDER`, of
        which the first that exists is read; or one of these on the hub,
        `hf://owner/name[@revision][/path]`.
      put: what each array goes through as soon as it is read, such as `jnp.asarray`;
        so a `.safetensors` file is in memory once, not as two kinds of arrays.
      content: bytes of the file, where they were read already, as for their digest;
        the path then gives the kind of file alone.

    Returns:
      `{name: array}`.

    Raises:
      ValueError: there is no such file, its kind is not known, it is corrupted, needs
        a package that is not installed, holds other things than arrays, or an index
        and its files contradict each other; or `content` of an index or a folder.
    """
    path = local_path(path)
    if content is not None and (path.is_dir() or path.name.endswith(INDEX)):
        raise ValueError(
            f"{path}: content must be of one file of weights; give the path alone"
        )
    if path.is_dir():
        path = _file_of(path)
    if not path.is_file():
        raise ValueError(
            f"no file {str(path)!r}: give a local file of weights, or "
            "hf://owner/name/FILE of one on the hub"
        )
    if path.name.endswith(INDEX):
        return _read_shards(path, put)
    source = path if content is None else io.BytesIO(content)
    if path.suffix in TORCH:
        return _read_torch(path, source, put)
    match path.suffix:
        case ".safetensors":
            if content is None:
                return _read_safetensors(path, put)
            return _read_safetensors_of(path, content, put)
        case ".npz":
            return _read_npz(path, source, put)
        case ".pkl" | ".pickle" | ".ckpt":
            raise ValueError(
                f"{path.name}: a pickle may run code and is not opened; save the "
                "network's state dict as .safetensors where you trust it"
            )
    raise ValueError(f"{path.name}: must end in {', '.join(FILES)} or {INDEX}")


def read_json(path: pathlib.Path) -> dict[str, Any]:
    """Reads a dictionary from a JSON file.

    Raises:
      ValueError: there is no such file, it is no JSON, or no dictionary.
    """
    if not path.is_file():
        raise ValueError(f"no file {str(path)!r}: give the path of one")
    value = _reading(path, lambda: json.loads(path.read_text()))
    if not isinstance(value, dict):
        raise ValueError(f"{path}: must hold a dictionary, not {type(value).__name__}")
    return value


def check_weights(
    arrays: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], network: str
) -> None:
    """Raises unless `arrays` are exactly those of a network.

    Args:
      arrays: `{name: array}`, of which the shapes are looked at.
      shapes: `{name: shape}` of the network.
      network: its name, for the message.

    Raises:
      ValueError: arrays are missing, additional, or of another shape: one message with
        the names, `MOST_NAMES` of each kind.
    """
    there = {name: tuple(np.shape(array)) for name, array in arrays.items()}
    wrong = {
        "missing": [name for name in shapes if name not in there],
        "not of this network": [name for name in there if name not in shapes],
        "of another shape": [
            f"{name} {there[name]}, must be {tuple(shape)}"
            for name, shape in shapes.items()
            if name in there and there[name] != tuple(shape)
        ],
    }
    lines = [f"{what}: {_listed(names)}" for what, names in wrong.items() if names]
    if lines:
        raise ValueError(
            f"{len(there)} arrays are not the weights of {network}; {'; '.join(lines)}"
        )


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    rest = len(names) - MOST_NAMES
    more = f" and {rest} more" if rest > 0 else ""
    return ", ".join(names[:MOST_NAMES]) + more


def _file_of(folder: pathlib.Path) -> pathlib.Path:
    for name in IN_FOLDER:
        if (folder / name).is_file():
            return folder / name
    raise ValueError(f"no weights in {str(folder)!r}: must hold {', '.join(IN_FOLDER)}")


def _reading(path: pathlib.Path, read: Any) -> Any:
    """Calls `read`; whatever a corrupted file makes it raise is a `ValueError`."""
    try:
        return read()
    except ModuleNotFoundError as error:
        package = str(error.name).partition(".")[0]
        raise ValueError(
            f"{path.name} needs {package}: pip install {package}"
        ) from error
    except MemoryError:
        raise
    except Exception as error:  # each reader has errors of its own
        detail = " ".join(str(error).split())[:200] or type(error).__name__
        raise ValueError(f"{path}: corrupted or no such file; {detail}") from error


def _read_npz(path: pathlib.Path, source: Source, put: Put) -> dict[str, Any]:
    def read() -> dict[str, Any]:
        with np.load(source, allow_pickle=False) as file:
            return {name: put(file[name]) for name in file.files}

    return _reading(path, read)


def _read_safetensors(path: pathlib.Path, put: Put) -> dict[str, Any]:
    def read() -> dict[str, Any]:
        import ml_dtypes  # noqa: F401  registers bfloat16 with NumPy
        from safetensors import safe_open

        with safe_open(path, framework="np") as file:
            names = list(file.keys())
        arrays: dict[str, Any] = {}
        for start in range(0, len(names), AT_ONCE):  # pages of a closed file are freed
            with safe_open(path, framework="np") as file:
                for name in names[start : start + AT_ONCE]:
                    arrays[name] = put(file.get_tensor(name))
        return arrays

    return _reading(path, read)


def _read_safetensors_of(path: pathlib.Path, content: bytes, put: Put) -> Any:
    def read() -> dict[str, Any]:
        import ml_dtypes  # noqa: F401  registers bfloat16 with NumPy
        from safetensors import deserialize

        arrays = {}
        for name, entry in deserialize(content):
            letters = entry["dtype"].rstrip("0123456789")
            size = entry["dtype"].removeprefix(letters)
            dtype = np.dtype(LETTERS.get(letters, letters.lower()) + size)
            array = np.frombuffer(entry["data"], dtype).reshape(entry["shape"])
            arrays[name] = put(array)
        return arrays

    return _reading(path, read)


def _read_torch(path: pathlib.Path, source: Source, put: Put) -> dict[str, Any]:
    def read() -> Any:
        import torch

        try:
            return torch.load(source, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError:
            return UNSAFE

    state = _reading(path, read)
    if state is UNSAFE:
        raise ValueError(
            f"{path.name} is corrupted or holds more than arrays, which may run code; "
            "save the state dict by itself where you trust the file"
        )
    others = (
        [name for name, value in state.items() if not hasattr(value, "numpy")]
        if isinstance(state, dict)
        else [type(state).__name__]
    )
    if others:
        raise ValueError(
            f"{path.name} holds {_listed(map(str, others))}: must be one state dict of "
            "arrays; save the one that you want by itself"
        )
    # one after another, so that no tensor is in memory twice
    return {name: put(_as_numpy(state.pop(name))) for name in list(state)}


def _as_numpy(tensor: Any) -> np.ndarray:
    """Converts to NumPy: bfloat16, which it lacks, becomes float32 without loss."""
    if str(tensor.dtype) == "torch.bfloat16":
        tensor = tensor.float()
    return tensor.detach().numpy()


def _read_shards(path: pathlib.Path, put: Put) -> dict[str, Any]:
    index = read_json(path).get("weight_map")
    if not isinstance(index, dict) or not index:
        raise ValueError(f"{path}: an index must have an entry 'weight_map'")
    files = sorted(set(map(str, index.values())))
    outside = [name for name in files if pathlib.Path(name).name != name]
    if outside:
        raise ValueError(f"{path}: {_listed(outside)} must be files of its folder")
    arrays: dict[str, Any] = {}
    for file in files:
        part = read_weights(path.parent / file, put=put)
        named = {name for name, place in index.items() if place == file}
        for what, names in (
            ("lacks", named - part.keys()),
            ("also has", part.keys() - named),
        ):
            if names:
                raise ValueError(
                    f"{path.name} and {file} contradict each other: the file {what} "
                    f"{_listed(sorted(names))}"
                )
        arrays |= part
    return arrays
