"""Linear inverse problems: samples of x given `y = A x + std n`, by any network.

| name          | what it is                                             | NFE a step |
|---------------|--------------------------------------------------------|------------|
| `dps`         | denoiser: likelihood of y at x_hat                     | 2          |
| `pigdm`       | denoiser: x given z has covariance r^2 I               | 2          |
| `mmps`        | denoiser: x given z has the covariance of its Jacobian | 2 + k      |
| `proximal`    | denoiser of DiffPIR: x_hat moved toward y, no Jacobian | 1          |
| `RePaint`     | sampler: known pixels with noise, and jumps back       | 1          |
| `twisted_smc` | particles that converge to the posterior               | 2          |
| `posterior`   | exact law of x given y, for Gaussians and mixtures     |            |

Denoisers are like those of `guidance`: every sampler takes them, and guidance and
thresholds go around or inside. An operator is given by its action (`linear`) or is one
of `masking`, `blurring`, `averaging` and `multiplication`. A product with the
transposed Jacobian of the network counts as a call.

Sources, limits and measured biases: `docs/inverse_problems.md`.
"""

from diffusionflow.inverse.denoisers import (
    DPS,
    MMPS,
    PiGDM,
    PosteriorDenoiser,
    dps,
    mmps,
    pigdm,
)
from diffusionflow.inverse.diffpir import Proximal, proximal
from diffusionflow.inverse.exact import CorrelatedMixture, posterior
from diffusionflow.inverse.operators import (
    LinearOperator,
    Measurement,
    averaging,
    blurring,
    linear,
    masking,
    multiplication,
)
from diffusionflow.inverse.particles import Particles, resample, twisted_smc
from diffusionflow.inverse.repaint import RePaint

__all__ = [
    "DPS",
    "MMPS",
    "CorrelatedMixture",
    "LinearOperator",
    "Measurement",
    "Particles",
    "PiGDM",
    "PosteriorDenoiser",
    "Proximal",
    "RePaint",
    "averaging",
    "blurring",
    "dps",
    "linear",
    "masking",
    "mmps",
    "multiplication",
    "pigdm",
    "posterior",
    "proximal",
    "resample",
    "twisted_smc",
]
