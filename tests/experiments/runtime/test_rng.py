"""Streams of random keys: `runtime/rng.py`."""

import jax
import numpy as np
import pytest

from experiments.runtime import rng


def test_the_streams_of_a_seed_differ():
    keys = [rng.stream(seed, purpose) for seed in (0, 1) for purpose in range(3)]
    data = {jax.random.key_data(key).tobytes() for key in keys}
    assert len(data) == 6


@pytest.mark.parametrize("seed", [0, 7, 2**31 - 1, 2**31, 2**32 - 1])
def test_a_stream_is_the_same_inside_a_program(seed):
    inside = jax.jit(lambda seed: rng.stream(seed, rng.SAMPLE))(np.uint32(seed))
    data = jax.random.key_data(inside)
    np.testing.assert_array_equal(
        data, jax.random.key_data(rng.stream(seed, rng.SAMPLE))
    )
