"""Exponential and power-function moving averages (EMA) of parameters, in float32.

`init`, `decay` and `update` track an exponential average. Averages of power profiles
(`power_update`) are as wide as a fraction of the run, and from a few stored ones that
of any other width is reconstructed post hoc (`combination`, `combine`).
"""

from diffusionflow.ema.exponential import decay, init, update
from diffusionflow.ema.power import (
    Profile,
    combination,
    combine,
    gamma_of,
    inner_product,
    power_update,
    relative_width,
)

__all__ = [
    "Profile",
    "combination",
    "combine",
    "decay",
    "gamma_of",
    "init",
    "inner_product",
    "power_update",
    "relative_width",
    "update",
]
