"""From a published config and its arrays to the parameters of a Flax module."""

import inspect
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffusionflow._dataclass import check_name
from diffusionflow.interop.weights import check_weights

# names of files written before 2023
RENAMED = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
TWICE = ("time_proj.W", "time_proj.weight")


def entries_of(
    network: type, config: Mapping[str, Any], elsewhere: Iterable[str]
) -> dict[str, Any]:
    """Returns the fields of a network among a config's entries, lists as tuples.

    Args:
      network: class of a Flax module whose fields are named as the entries.
      config: of `config.json`; names that start with `_` are left out.
      elsewhere: names of entries that say nothing of the network.

    Raises:
      ValueError: another entry is no field.
    """
    fields = [*inspect.signature(network).parameters]
    entries = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in config.items()
        if not name.startswith("_") and name not in elsewhere
    }
    for name in entries:
        check_name(f"entry of {config['_class_name']}", name, fields)
    return entries


def params_of(module: Any, state: dict[str, Any], name: str) -> dict[str, Any]:
    """Returns the parameters of a module, float32, from the arrays of its file.

    Args:
      module: a Flax module of `networks.pretrained`.
      state: arrays under the names of its parameters, joined by dots; used up.
      name: of the network, for messages.

    Raises:
      ValueError: the arrays are not exactly those of the network, or its fields do not
        fit together.
    """
    return filled(_shapes(module, name), state, name)


def filled(shapes: Any, state: dict[str, Any], name: str) -> dict[str, Any]:
    """Returns nested dictionaries of the shapes given, float32, from a file's arrays.

    Args:
      shapes: nested dictionaries with leaves that have a shape.
      state: arrays under their names, joined by dots; used up.
      name: of the network, for messages.

    Raises:
      ValueError: the arrays are not exactly those, or not of finite floats.
    """
    leaves = jax.tree_util.tree_leaves_with_path(shapes)
    paths = {".".join(key.key for key in path): path for path, _ in leaves}
    shapes = [leaf.shape for _, leaf in leaves]
    check_weights(state, dict(zip(paths, shapes, strict=True)), name)
    params: dict[str, Any] = {}
    for full, path in paths.items():
        place = params
        for key in path[:-1]:
            place = place.setdefault(key.key, {})
        value = state.pop(full)
        check_numbers(full, value)
        place[path[-1].key] = as_parameter(value)
    return params


def check_numbers(name: str, value: Any) -> None:
    """Raises a `ValueError` where a parameter is not of finite floats."""
    if not jnp.issubdtype(value.dtype, jnp.floating):
        raise ValueError(
            f"{name} of type {value.dtype}: must be of floats; quantised weights are "
            "to be converted back first"
        )
    bad = np.size(value) - np.isfinite(np.asarray(value, np.float32)).sum()
    if bad:
        raise ValueError(
            f"{name}: {bad:,} of {np.size(value):,} numbers are not finite: the file "
            "is corrupted, or of a training that diverged; take another one"
        )


def as_parameter(array: Any) -> Any:
    """Returns floats as float32 on the default device, once they are there.

    Waiting bounds the memory: what is copied later keeps its source until then. Others
    stay as they are, for `filled` to name them.
    """
    if not jnp.issubdtype(array.dtype, jnp.floating):
        return array
    return jnp.asarray(array, jnp.float32).block_until_ready()


def _shapes(module: Any, name: str) -> Any:
    """Returns the shapes of a module's parameters; tracing it checks its fields."""
    try:
        inputs = module.example_inputs()
        return jax.eval_shape(module.init, jax.random.key(0), *inputs)["params"]
    except Exception as error:  # entries of a config are of any type
        detail = " ".join(str(error).split())[:300]
        raise ValueError(f"config.json of {name}: {detail}") from error


def with_new_names(state: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the arrays of a file under the names that diffusers gives them today.

    Before 2023 the maps of an attention were query, key, value and proj_attn, and the
    frequencies of a Fourier embedding stood in the file twice.
    """
    new: dict[str, Any] = {}
    for name, array in state.items():
        *parts, last, leaf = ("", *name.split("."))
        if "attentions" in parts:
            last = RENAMED.get(last, last)
        new[".".join((*parts, last, leaf)).lstrip(".")] = array
    first, second = (new.get(name) for name in TWICE)
    if first is not None and second is not None and np.array_equal(first, second):
        del new[TWICE[0]]
    return new
