"""Files of arrays, and the line that refuses one."""

import numpy as np
import pytest

from experiments.config import build
from experiments.runtime.errors import UsageError

RNG = np.random.RandomState(0)


def written(path, **arrays):
    np.savez(path, **arrays)
    return str(path)


def floats(count, *shape):
    return RNG.standard_normal((count, *shape)).astype(np.float32)


def refusal(**section):
    """The one line in which a config refuses a data set."""
    with pytest.raises(UsageError) as caught:
        build.dataset({"name": "npz"} | section)
    assert "\n" not in str(caught.value)
    return str(caught.value)
