"""Our schedule for the name of a recorded one."""

import re

import jax.numpy as jnp
import numpy as np

from diffusionflow import schedules

FLOW = schedules.FlowMatching()


def named(name):
    """Our schedule for a recorded name. Peers with t = 1 at the data are reversed."""
    numbers = re.search(r"-b([\d.]+)-(\d+)", name)
    if name in ("rf", "condot", "straight", "Linear"):
        return FLOW
    if name in ("cosine", "spherical", "GVP"):
        return schedules.Cosine()
    if name in ("linear", "vp", "ddim", "VP") or numbers:
        return schedules.LinearBeta(*map(float, numbers.groups() if numbers else ()))
    if name.startswith("poly"):
        power = float(name[4:])
        return schedules.Interpolated(
            lambda t: (1 - t) ** power, lambda t: 1 - (1 - t) ** power
        )
    if name == "linearvp":
        return schedules.Interpolated(lambda t: 1 - t, lambda t: jnp.sqrt(t * (2 - t)))
    if name == "invcosine":
        return schedules.Interpolated(
            lambda t: jnp.sqrt(jnp.arccos(2 * t - 1) / jnp.pi),
            lambda t: jnp.sqrt(jnp.arccos(1 - 2 * t) / jnp.pi),
        )
    if name == "geometric":
        return schedules.VE(0.01, 80.0)
    if name == "shifted-cosine-256-64":  # the peer shifts what it has cut to +-15
        return schedules.Shifted(schedules.Cosine(-15.0, 15.0), 4.0)
    assert name == "shifted-rf-128-64"
    cut = lambda t: (1 - t) / (1 + np.exp(7.5)) + t / (1 + np.exp(-7.5))
    shifted = schedules.Shifted(FLOW, 2.0)
    return schedules.Interpolated(
        lambda t: shifted.alpha(cut(t)), lambda t: shifted.sigma(cut(t))
    )
