"""Random weights by name, and the records of networks of diffusers run on them.

Of torch nothing is needed, and of jax nothing but for `state_of`: the script that
records torch's outputs, `benchmarks/record_pretrained.py`, makes the same weights as
the test that reads them.
"""

import functools
import json
import pathlib
import zlib

import numpy as np

TEXTS = ("config", "shapes", "slopes")
FOLDER = pathlib.Path(__file__).parents[1] / "data" / "pretrained"


def random_state(shapes):
    """Arrays for `{name: shape}` of a state dict, the same everywhere."""
    return {name: _random(name, tuple(shape)) for name, shape in shapes.items()}


def state_of(net):
    """Random arrays under the names of the parameters of a Flax module.

    Args:
      net: of `networks.pretrained`.
    """
    import jax

    shapes = jax.eval_shape(net.init, jax.random.key(0), *net.example_inputs())
    leaves = jax.tree_util.tree_leaves_with_path(shapes["params"])
    return random_state(
        {".".join(key.key for key in path): leaf.shape for path, leaf in leaves}
    )


def _random(name, shape):
    rng = np.random.RandomState(zlib.crc32(name.encode()))
    values = rng.standard_normal(shape)
    if len(shape) > 1:
        values = values / np.sqrt(np.prod(shape[1:]))
    elif name.endswith("weight"):  # of a normalisation
        values = 1 + 0.2 * values
    else:
        values = 0.2 * values
    return values.astype(np.float32)


def arrays(seed, *shape):
    """Standard normal float32 numbers."""
    return np.random.RandomState(seed).standard_normal(shape).astype(np.float32)


@functools.cache
def records(family):
    """`{case: {array: value}}` of a file of records, with dictionaries of `TEXTS`."""
    found = {}
    with np.load(FOLDER / f"{family}.npz") as file:
        for key in file.files:
            case, _, name = key.partition("/")
            value = file[key]
            value = json.loads(str(value)) if name in TEXTS else value
            found.setdefault(case, {})[name] = value
    return found
