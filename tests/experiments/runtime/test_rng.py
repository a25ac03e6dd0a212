"""Streams of random keys: `runtime/rng.py`."""

import jax

from experiments.runtime import rng


def test_the_streams_of_a_seed_differ():
    keys = [rng.stream(seed, purpose) for seed in (0, 1) for purpose in range(3)]
    data = {jax.random.key_data(key).tobytes() for key in keys}
    assert len(data) == 6
