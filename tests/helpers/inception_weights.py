"""Random weights of Inception under torchvision's names, the same everywhere.

Of torch and jax nothing is needed: the script that records torch's outputs makes the
same weights as the test that reads them.
"""

import zlib

import numpy as np

VECTORS = ("bn.weight", "bn.bias", "bn.running_mean", "bn.running_var")


def random_state(shapes):
    """Arrays for `{name of a convolution: shape of its weight [out, in, h, w]}`."""
    state = {}
    for name, shape in shapes.items():
        rng = np.random.RandomState(zlib.crc32(name.encode()))
        fan_in = np.prod(shape[1:])
        weight = rng.standard_normal(shape) * np.sqrt(2 / fan_in)
        state[f"{name}.conv.weight"] = weight.astype(np.float32)
        scale, bias, mean, variance = rng.random_sample((4, shape[0]))
        vectors = (0.8 + 0.4 * scale, bias - 0.5, 0.2 * mean, 0.5 + variance)
        for vector, value in zip(VECTORS, vectors, strict=True):
            state[f"{name}.{vector}"] = value.astype(np.float32)
    return state


def images():
    """Two images [2, 107, 99, 3], values in [-1, 1]."""
    return np.random.RandomState(0).uniform(-1, 1, (2, 107, 99, 3)).astype(np.float32)


def small():
    """A map [1, 5, 7, 3] to be resized."""
    return np.random.RandomState(1).uniform(-1, 1, (1, 5, 7, 3)).astype(np.float32)
