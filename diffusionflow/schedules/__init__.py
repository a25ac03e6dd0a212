"""Noise schedules `t -> (alpha_t, sigma_t)`, and the conventions of the library.

Conventions, stated here once and kept everywhere:

- Time `t` is in [0, 1]: **t = 0 is data, t = 1 is noise**. Samplers go from `t` down to
  `s < t`.
- A noised example is `z_t = alpha_t x + sigma_t eps` with `eps ~ N(0, I)`.
- `logsnr_t = log(alpha_t^2 / sigma_t^2)` falls with `t`. It alone decides what is
  learned and sampled; the scale `sqrt(alpha^2 + sigma^2)` is free.
- Arrays have shape `[*batch, *event]`, times are scalar or `[*batch]`.

Your own schedule is a subclass of `Schedule` with `alpha(t)` and `sigma(t)`, whose
other methods follow by default; `diffusionflow.register` makes it a value that can be
passed to jitted functions.

Concrete times give NumPy float64, and nothing is compiled; `jax.Array`s give
`jax.Array`s in float32 or wider.

Where exact arithmetic gives a finite value, schedules give one in float32, t = 0 and
t = 1 included; `logsnr` is infinite where `sigma` or `alpha` is zero.

As the forward SDE `dz = f z dt + g dw` a schedule has, with ' = d / dt,

    f = alpha' / alpha,   g^2 = 2 alpha sigma (sigma / alpha)' = -sigma^2 logsnr',

which are the methods `f`, `g2`, `dlogsnr_dt` and `derivatives` of any schedule;
`square_derivatives`, of alpha^2 and sigma^2, stay finite at the zero of a square root.
"""

from diffusionflow.schedules.base import Schedule, as_schedule, check_same_schedule
from diffusionflow.schedules.beta import LinearBeta, SubVP
from diffusionflow.schedules.cosine import Cosine, IDDPMCosine
from diffusionflow.schedules.discrete import Discrete, zero_terminal_snr
from diffusionflow.schedules.exploding import EDM, VE
from diffusionflow.schedules.flow import FlowMatching
from diffusionflow.schedules.learned import Learned, learned
from diffusionflow.schedules.logsnr import Cauchy, Laplace, LinearLogSNR
from diffusionflow.schedules.sigmoid import Sigmoid
from diffusionflow.schedules.transforms import Interpolated, Scaled, Shifted, shift_time

__all__ = [
    "EDM",
    "VE",
    "Cauchy",
    "Cosine",
    "Discrete",
    "FlowMatching",
    "IDDPMCosine",
    "Interpolated",
    "Laplace",
    "Learned",
    "LinearBeta",
    "LinearLogSNR",
    "Scaled",
    "Schedule",
    "Shifted",
    "Sigmoid",
    "SubVP",
    "as_schedule",
    "check_same_schedule",
    "learned",
    "shift_time",
    "zero_terminal_snr",
]
