"""Timestep schedules (sampling grids): float64 on the host, strictly falling.

`num_steps` steps make `num_steps + 1` times, built by index, from the noise end down to
the data end. With `i = 0..num_steps` and `u_i = 1 - i / num_steps`:

| grid               | equal steps in            | times, without arguments           |
|--------------------|---------------------------|------------------------------------|
| `uniform`          | t                         | u                                  |
| `quadratic`        | sqrt(t)                   | u^2: short steps at the data       |
| `cosine`           | arcsin(t)                 | sin(pi u / 2): short at the noise  |
| `shifted`          | t on `schedules.Shifted`  | k u / (1 + (k - 1) u)              |
| `logsnr_uniform`   | log-SNR                   | of a schedule                      |
| `karras`           | (sigma / alpha)^(1 / rho) | of a schedule                      |
| `align_your_steps` | the row of a table        | of a schedule, at published levels |
| `discrete`         | levels of a table         | nodes of `schedules.Discrete`      |

Equal steps in log-SNR are called exponential sigmas elsewhere: sigma / alpha is then
geometric. Any falling array of times in [0, 1] is a grid as well. `optimize` computes
the grid that is best for a model, a sampler and a number of steps.
"""

from diffusionflow.grids.checks import check_grid
from diffusionflow.grids.equal_calls import candidates
from diffusionflow.grids.fixed import (
    SPACINGS,
    cosine,
    discrete,
    karras,
    logsnr_uniform,
    quadratic,
    shifted,
    uniform,
)
from diffusionflow.grids.optimized import Measured, Optimized, optimize
from diffusionflow.grids.published import TABLES, align_your_steps

__all__ = [
    "SPACINGS",
    "TABLES",
    "Measured",
    "Optimized",
    "align_your_steps",
    "candidates",
    "check_grid",
    "cosine",
    "discrete",
    "karras",
    "logsnr_uniform",
    "optimize",
    "quadratic",
    "shifted",
    "uniform",
]
