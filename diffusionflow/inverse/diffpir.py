"""DiffPIR: x_hat moved toward the measurement, without a Jacobian."""

from typing import Any

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from diffusionflow._dataclass import check_count, check_positive, register, static
from diffusionflow._numeric import at_least_float32
from diffusionflow.guidance.base import Wrapper, with_x
from diffusionflow.inverse.operators import MOST_ITERATIONS, Measurement, solve
from diffusionflow.predictions import Denoised, DenoiseFn, as_denoiser, per_event
from diffusionflow.schedules import Schedule


@register
class Proximal(Wrapper):
    """See `proximal`."""

    denoise_fn: Any
    measurement: Any
    schedule: Any
    weight: Any
    num_iterations: int = static()

    def __post_init__(self) -> None:
        check_positive("weight", self.weight)

    def denoise(self, z: Array, t: Array) -> Denoised:
        denoised = self.denoise_fn(z, t)
        x, operator = denoised.x, self.measurement.operator
        residual = self.measurement.residual(x)
        alpha, sigma = (
            per_event(jnp.asarray(level(t)), residual)
            for level in (self.schedule.alpha, self.schedule.sigma)
        )
        weight = at_least_float32(self.weight).astype(residual.dtype)
        variance = self.measurement.variance(residual)
        matvec = lambda v: (
            weight * (alpha**2 * variance) * v
            + sigma**2 * operator(operator.transpose(v))
        )
        ndim = len(operator.output_shape)
        solved = solve(matvec, residual, ndim, self.num_iterations)
        x = x + operator.transpose(sigma**2 * solved)
        return with_x(denoised, x, t, self.schedule)


def proximal(
    denoise_fn: DenoiseFn,
    measurement: Measurement,
    *,
    schedule: Schedule,
    weight: ArrayLike = 1.0,
    num_iterations: int = 5,
) -> Proximal:
    """Makes the denoiser of DiffPIR: the x that fits y and is near to x_hat.

        argmin_x |y - A x|^2 / std^2 + weight alpha^2 / sigma^2 |x - x_hat|^2,

    the mean of x given y if x given z were `N(x_hat, sigma^2 / (weight alpha^2) I)`:
    weight 1 is data without a prior, and more trusts x_hat more. eps_hat follows from
    z. It takes no derivative of the network, so that it costs one call.

    DiffPIR's sampler is `samplers.FlowMap(gamma=sqrt(zeta))` on this denoiser: DDIM
    with fraction zeta of the variance of the noise drawn again.

    Args:
      denoise_fn: `(z, t) -> Denoised`, of the prior.
      measurement: with std >= 0.
      schedule: the one that t belongs to.
      weight: lambda in the source, 1 to 25 there.
      num_iterations: of conjugate gradients; as many as `A A^T` has different
        eigenvalues are exact. They call no network.

    Returns:
      A registered callable `(z, t) -> Denoised`.

    Raises:
      ValueError: a setting is out of bounds.

    Source: Zhu et al. 2023, arXiv 2305.08995, algorithm 1.
    """
    check_count("num_iterations", num_iterations, most=MOST_ITERATIONS)
    denoiser = as_denoiser(denoise_fn, schedule=schedule)
    return Proximal(denoiser, measurement, schedule, weight, num_iterations)
