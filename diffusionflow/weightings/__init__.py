"""Loss weightings: factors on the squared error of a prediction type (kind).

A weighting names the `kind` whose error it multiplies and gives the factor
`weighting(t, schedule=...)`. Together with the density of training times it makes the
objective; `objectives.total_weight` gives both on one scale. The network may predict
any other kind: the loss converts the error, so one weighting is one objective.

With SNR = alpha^2 / sigma^2 and l its logarithm, `W` below is the weight on the
eps-MSE and p(l) the density of training noise levels. The names say which form a source
prints; the `kind` is the one on which the factor is finite at both ends wherever the
weighted error is. Two conventions are distinguished by name:

- `ELBO`, `Likelihood`, `Sigmoid` and `LogSNR` contain the factor `-dlogsnr/dt`: with
  uniform times, W is the function of l alone and the schedule drops out. The
  variational bound (ELBO, VLB) is half of that integral, summed over the event.
- All others are factors on an error, and W is proportional to p(l); `Monotone` levels
  out the W of another.
"""

from diffusionflow.weightings.base import Weighting, weight_on, weight_on_eps
from diffusionflow.weightings.error_factors import (
    EDM,
    P2,
    Factor,
    MinSNR,
    Mse,
    SoftMinSNR,
    TruncatedSNR,
)
from diffusionflow.weightings.logsnr import ELBO, Likelihood, LogSNR, Sigmoid
from diffusionflow.weightings.total import Monotone

__all__ = [
    "EDM",
    "ELBO",
    "P2",
    "Factor",
    "Likelihood",
    "LogSNR",
    "MinSNR",
    "Monotone",
    "Mse",
    "Sigmoid",
    "SoftMinSNR",
    "TruncatedSNR",
    "Weighting",
    "weight_on",
    "weight_on_eps",
]
