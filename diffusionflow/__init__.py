"""diffusionflow: diffusion and Gaussian flow matching as one thing.

A method is a choice of noise schedule (`schedules`), network output (`predictions`),
objective (`weightings`, `times`, `objectives`, `losses`) and sampler (`samplers`,
`grids`, `guidance`); they compose freely. `metrics` compare what comes out. The
conventions stand in `schedules`.

The package needs jax and chex; `diffusionflow.networks` needs flax as well and is
imported by name.
"""

from diffusionflow import (
    analytic,
    ema,
    grids,
    guidance,
    interop,
    likelihood,
    losses,
    metrics,
    objectives,
    predictions,
    processes,
    random,
    samplers,
    schedules,
    times,
    weightings,
)
from diffusionflow._dataclass import register, static

__all__ = [
    "analytic",
    "ema",
    "grids",
    "guidance",
    "interop",
    "likelihood",
    "losses",
    "metrics",
    "objectives",
    "predictions",
    "processes",
    "random",
    "register",
    "samplers",
    "schedules",
    "static",
    "times",
    "weightings",
]
