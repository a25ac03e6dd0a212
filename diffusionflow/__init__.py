"""diffusionflow: diffusion models and Gaussian flow matching in one framework.

A method is a choice of noise schedule (`schedules`), prediction type (`predictions`),
objective (`weightings`, `times`, `objectives`, `losses`) and sampler (`samplers`,
`grids`, `guidance`, `inverse`); they compose freely. `couplings` pair noise with data,
`distillation` makes models of few steps, `metrics` compare samples. The conventions are
stated in `schedules`.

The package needs jax and chex; `diffusionflow.networks` needs
flax as well and is imported by name, as is `diffusionflow.testing`.
"""

from diffusionflow import (
    analytic,
    couplings,
    distillation,
    ema,
    grids,
    guidance,
    interop,
    inverse,
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
    "couplings",
    "distillation",
    "ema",
    "grids",
    "guidance",
    "interop",
    "inverse",
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
