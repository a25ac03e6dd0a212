"""Diffusion processes as SDEs (f, g, eta) and interpolants (alpha, sigma, epsilon).

The SDE `dz = f z dt + g dw` noises data along `z = alpha x + sigma eps`, with

    f = alpha' / alpha,   g^2 = 2 alpha sigma (sigma / alpha)',   epsilon = eta g,
    alpha = alpha_0 exp(I),   I(t) = int_0^t f,
    sigma = alpha sqrt(sigma_0^2 / alpha_0^2 + int_0^t (g / alpha_0)^2 exp(-2 I)),

where epsilon is the diffusion of the generative process and eta its ratio to g. The
leading alpha of the last line is missing in Gao et al. 2024, "Diffusion Meets Flow
Matching", whose formula gives sigma / alpha (for alpha_0 = 1).

**Direction of time.** A drift is always the factor of dt in a clock where t = 1 is
noise. `forward` runs with dt > 0 from data to noise. `reverse` and `interpolant` run
with dt < 0 from noise to data, their noise is that of a Wiener process of the reversed
clock, and a step from t to s < t is `z + (s - t) drift + diffusion sqrt(t - s) xi`.
`probability_flow` has no noise and runs both ways. The source prints the generative
SDEs without their direction; read with dt > 0 they do not keep the marginals: the
variance grows too fast by 2 eta^2 g^2 per unit of time. The SDE of the same marginals
with dt > 0 is `interpolant(..., direction="forward")`.

All of them take `denoise_fn` and use `x_hat` and `eps_hat`, so that they are finite
wherever their coefficients are: `E[dz/dt | z] = alpha' x_hat + sigma' eps_hat` divides
by neither alpha nor sigma.
"""

from diffusionflow.processes.coefficients import (
    Interpolant,
    Sde,
    to_interpolant,
    to_sde,
)
from diffusionflow.processes.drifts import (
    SdeTerms,
    forward,
    interpolant,
    probability_flow,
    reverse,
)
from diffusionflow.processes.noising import add_noise
from diffusionflow.processes.quadrature import FromSde, from_sde

__all__ = [
    "FromSde",
    "Interpolant",
    "Sde",
    "SdeTerms",
    "add_noise",
    "forward",
    "from_sde",
    "interpolant",
    "probability_flow",
    "reverse",
    "to_interpolant",
    "to_sde",
]
