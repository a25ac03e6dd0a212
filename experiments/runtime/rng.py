"""Derives the random streams of a run, one for each purpose, from the seed."""

import jax

from diffusionflow import random

# folded into the seed: independent streams
INIT, TRAIN, EVALUATE, SAMPLE, COUPLE, PAIRS, GRID = range(7)


def stream(seed: int | jax.Array, purpose: int) -> jax.Array:
    """Returns the key of a purpose, one of the constants above.

    Args:
      seed: in [0, 2^32), uint32 if traced.
      purpose: one of the constants.
    """
    return random.fold_in(jax.random.key(seed, impl="threefry2x32"), purpose)
