"""Likelihoods: variational bounds, the probability-flow ODE, and their units.

Everything is in nats per example (sums over the event), `[*batch]`, with a standard
error where anything is random; `bits_per_dim` converts, given what the floats stand
for, and `summarise` averages over examples.

- `discrete_bound`, `continuous_bound`: variational bounds (negative ELBO, VLB), above
  `-log p(x)` of the stochastic sampler's model, for data that are continuous or have
  `QuantizedLevels`.
- `encode`, `decode`: `log p(x)` of the deterministic sampler's model (the ODE), from
  data to latent or along sampling.

They are two models of one network, and equal only for an exact denoiser.
"""

from diffusionflow.likelihood.bounds import continuous_bound, discrete_bound
from diffusionflow.likelihood.estimator import Bound
from diffusionflow.likelihood.ode import Flow, decode, encode
from diffusionflow.likelihood.quantized import (
    QuantizedLevels,
    bits_per_dim,
    gaussian_nats,
)
from diffusionflow.likelihood.solvers import Adaptive, Fixed, Integrated
from diffusionflow.likelihood.summary import Summary, summarise
from diffusionflow.likelihood.traces import Exact, Hutchinson, Trace, Traced

__all__ = [
    "Adaptive",
    "Bound",
    "Exact",
    "Fixed",
    "Flow",
    "Hutchinson",
    "Integrated",
    "QuantizedLevels",
    "Summary",
    "Trace",
    "Traced",
    "bits_per_dim",
    "continuous_bound",
    "decode",
    "discrete_bound",
    "encode",
    "gaussian_nats",
    "summarise",
]
