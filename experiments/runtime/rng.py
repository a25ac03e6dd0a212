"""Derives the random streams of a run, one for each purpose, from the seed."""

import jax

from diffusionflow import random

# folded into the seed: independent streams
INIT, TRAIN, EVALUATE, SAMPLE, COUPLE, PAIRS, GRID = range(7)


def stream(seed: int, purpose: int) -> jax.Array:
    """Returns the key of a purpose, one of the constants above."""
    return random.fold_in(jax.random.key(seed, impl="threefry2x32"), purpose)
