"""What tests of losses share."""

import jax.numpy as jnp

from diffusionflow import predictions, schedules

FLOW = schedules.FlowMatching()


def net(z, t):
    """Any function of z and t that is no solution."""
    return jnp.sin(z) * predictions.per_event(1 + t, z)
