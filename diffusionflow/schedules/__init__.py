"""Noise schedules `t -> (alpha_t, sigma_t)`, and the conventions of the library.

Conventions, stated here once and kept everywhere:

- Time `t` is in [0, 1]: **t = 0 is data, t = 1 is noise**. Samplers go from `t` down to
  `s < t`.
- A noised example is `z_t = alpha_t x + sigma_t eps` with `eps ~ N(0, I)`.
- `logsnr_t = log(alpha_t^2 / sigma_t^2)` falls with `t`. It alone decides what is
  learned and sampled; the scale `sqrt(alpha^2 + sigma^2)` is free.
- Arrays have shape `[*batch, *event]`, times are scalar or `[*batch]`.

A schedule is any object with the four methods of `Schedule`, elementwise in their
argument. To hand one of your own to a jitted function as data, register its class with
`jax.tree_util.register_pytree_node`: under `register_dataclass` of jaxlib 0.10.2 the
structures of two classes with as many fields compare equal, and the compiled program of
the other one may run.

Where exact arithmetic gives a finite value, schedules give one in float32, t = 0 and
t = 1 included; `logsnr` is infinite where `sigma` or `alpha` is zero.

As a diffusion `dz = f z dt + g dw` a schedule has, with ' = d / dt,

    f = alpha' / alpha,   g^2 = 2 alpha sigma (sigma / alpha)' = -sigma^2 logsnr',

which the functions `f`, `g2`, `dlogsnr_dt` and `derivatives` give for any schedule;
`square_derivatives`, of alpha^2 and sigma^2, stay finite where a level is a root at 0.
"""

from diffusionflow.schedules.base import (
    Schedule,
    derivatives,
    dlogsnr_dt,
    f,
    g2,
    noise_level,
    square_derivatives,
    z_std,
)
from diffusionflow.schedules.beta import LinearBeta, SubVP
from diffusionflow.schedules.cosine import Cosine, IDDPMCosine
from diffusionflow.schedules.discrete import Discrete, zero_terminal_snr
from diffusionflow.schedules.exploding import EDM, VE
from diffusionflow.schedules.flow import FlowMatching
from diffusionflow.schedules.learned import Learned, learned
from diffusionflow.schedules.logsnr import Cauchy, Laplace, LinearLogSNR
from diffusionflow.schedules.sigmoid import Sigmoid
from diffusionflow.schedules.transforms import Interpolated, Scaled, Shifted

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
    "derivatives",
    "dlogsnr_dt",
    "f",
    "g2",
    "learned",
    "noise_level",
    "square_derivatives",
    "z_std",
    "zero_terminal_snr",
]
