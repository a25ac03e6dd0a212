"""Random streams of a run, one for each purpose: `fold_in` of the seed."""

import jax

from diffusionflow import random

INIT, TRAIN, EVALUATE, SAMPLE, COUPLE = range(
    5
)  # folded into the seed: independent streams


def stream(seed: int, purpose: int) -> jax.Array:
    """Returns the key of a purpose, one of the constants above."""
    return random.fold_in(jax.random.key(seed, impl="threefry2x32"), purpose)
