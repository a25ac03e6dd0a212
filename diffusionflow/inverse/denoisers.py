"""Denoisers of the posterior: DPS, PiGDM and MMPS, for every sampler.

With the gradient of the likelihood, `g = grad_z log p(y | z)`, Tweedie's formula gives

    E[x | z, y] = x_hat + sigma^2 / alpha g,    E[eps | z, y] = eps_hat - sigma g,

a pair at the same z. The methods approximate `x | z` by a Gaussian of mean x_hat, so
that, with the Jacobian J of x_hat in z and the covariance C of x given z,

    g = J^T A^T (std^2 I + A C A^T)^-1 (y - A x_hat),

and differ in C:

| denoiser | C                                     | exact for                     |
|----------|---------------------------------------|-------------------------------|
| `dps`    | 0                                     | none; in the limit sigma -> 0 |
| `pigdm`  | r^2 I, that of data N(m, v I)         | such data                     |
| `mmps`   | sigma^2 / alpha J, which C equals     | Gaussian data                 |
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from diffusionflow._dataclass import (
    check_count,
    check_finite,
    check_positive,
    is_traced,
    register,
    static,
)
from diffusionflow._numeric import at_least_float32, in_float64
from diffusionflow.guidance.base import Wrapper, at_positive
from diffusionflow.inverse.operators import MOST_ITERATIONS, Measurement, solve
from diffusionflow.predictions import Denoised, DenoiseFn, as_denoiser, per_event
from diffusionflow.schedules import Schedule

Pullback = Callable[[Array], Array]  # v -> J^T v


class PosteriorDenoiser(Wrapper):
    """Base class of the denoisers in this module; subclasses give `solve`.

    Refused where alpha = 0: the Jacobian is 0 there whatever the data are.
    """

    denoise_fn: Any
    measurement: Any
    schedule: Any

    num_products = 1  # with the transposed Jacobian, each counted as a call

    def solve(self, residual: Array, pullback: Pullback, t: Array) -> Array:
        """Computes `(std^2 I + A C A^T)^-1 residual`, like `residual`.

        Args:
          residual: `y - A x_hat`, `[*batch, *output]`.
          pullback: the product with J^T, on `[*batch, *event]`.
          t: scalar or `[*batch]`.
        """
        raise NotImplementedError(
            f"{type(self).__name__} must define solve(residual, pullback, t)"
        )

    def num_network_calls(self, t: ArrayLike) -> int | Array | None:
        calls = super().num_network_calls(t)
        return None if calls is None else (1 + self.num_products) * calls

    def check_times(self, t: ArrayLike) -> None:
        super().check_times(t)
        alpha = in_float64(lambda schedule, t: schedule.alpha(t), self.schedule, t)
        if not is_traced(alpha) and (np.asarray(alpha) <= 0).any():
            raise ValueError(
                f"alpha = 0 at a time of {t}: there z does not depend on x, and the "
                "network's Jacobian says nothing about it; begin the grid below, such "
                "as grids.uniform(num_steps, t_max=0.999)"
            )

    def denoise(self, z: Array, t: Array) -> Denoised:
        z = at_least_float32(z)
        x, vjp, eps = jax.vjp(both(self.denoise_fn, t), z, has_aux=True)
        pullback = lambda v: vjp(v)[0]
        solved = self.solve(self.measurement.residual(x), pullback, t)
        gradient = pullback(self.measurement.operator.transpose(solved))
        alpha = per_event(self.schedule.alpha(t), z)
        sigma = per_event(self.schedule.sigma(t), z)
        more = at_positive(sigma**2, alpha) * gradient
        return Denoised(x + more, eps - sigma * gradient)


@register
class DPS(PosteriorDenoiser):
    """See `dps`."""

    denoise_fn: Any
    measurement: Any
    schedule: Any
    scale: Any

    def __post_init__(self) -> None:
        check_finite("scale", self.scale)

    def solve(self, residual: Array, pullback: Pullback, t: Array) -> Array:
        del pullback, t
        scale = at_least_float32(self.scale).astype(residual.dtype)
        return scale * residual / self.measurement.variance(residual)


def dps(
    denoise_fn: DenoiseFn,
    measurement: Measurement,
    *,
    schedule: Schedule,
    scale: ArrayLike = 1.0,
) -> DPS:
    """Guides by DPS, diffusion posterior sampling: the likelihood of y at x_hat.

    `p(y | z) ~ N(y; A x_hat, std^2 I)`: as if x were known given z. It is overconfident
    by `A C A^T` at high noise, and stiff there: with a small std it needs many steps,
    or a smaller scale.

    The source scales its gradient by a constant over `|y - A x_hat|` in place of
    1 / std^2 and adds it to each step: that is a rule of a sampler with so many steps,
    not a posterior, and not what is done here.

    Args:
      denoise_fn: `(z, t) -> Denoised`, of the prior.
      measurement: with std > 0.
      schedule: the one that t belongs to.
      scale: of the gradient; 1 is the likelihood.

    Returns:
      A registered callable `(z, t) -> Denoised`. An evaluation counts twice in the NFE:
      a call and a product with the transposed Jacobian.

    Raises:
      ValueError: std is 0, or scale is not finite; at a call, alpha is 0.

    Source: Chung et al. 2022, arXiv 2209.14687, for Gaussian noise.
    """
    check_positive("std", measurement.std, "pigdm and mmps take exact measurements")
    denoiser = as_denoiser(denoise_fn, schedule=schedule)
    return DPS(denoiser, measurement, schedule, scale)


@register
class PiGDM(PosteriorDenoiser):
    """See `pigdm`."""

    denoise_fn: Any
    measurement: Any
    schedule: Any
    data_variance: Any
    num_iterations: int = static()

    def __post_init__(self) -> None:
        check_positive("data_variance", self.data_variance)

    def solve(self, residual: Array, pullback: Pullback, t: Array) -> Array:
        del pullback
        spread = isotropic_variance(self.schedule, t, self.data_variance)
        return solve_isotropic(self.measurement, residual, spread, self.num_iterations)


def pigdm(
    denoise_fn: DenoiseFn,
    measurement: Measurement,
    *,
    schedule: Schedule,
    data_variance: ArrayLike = 1.0,
    num_iterations: int = 5,
) -> PiGDM:
    """Guides by PiGDM, pseudoinverse-guided diffusion: covariance `r^2 I` of x given z.

    `r^2 = v sigma^2 / (alpha^2 v + sigma^2)`, exact for data `N(m, v I)`. The inverse
    of `std^2 I + r^2 A A^T` is by conjugate gradients, for any operator.

    The source multiplies its gradient by a weight of DDIM's step; this is the
    likelihood itself, for every sampler.

    Args:
      denoise_fn: `(z, t) -> Denoised`, of the prior.
      measurement: with std >= 0.
      schedule: the one that t belongs to.
      data_variance: v; 1 in the source.
      num_iterations: of conjugate gradients; as many as `A A^T` has different
        eigenvalues are exact, 1 or 2 for masks and averages. They call no network.

    Returns:
      A registered callable `(z, t) -> Denoised`. An evaluation counts twice in the NFE:
      a call and a product with the transposed Jacobian.

    Raises:
      ValueError: a setting is out of bounds; at a call, alpha is 0.

    Source: Song et al. 2023, Pseudoinverse-Guided Diffusion Models for Inverse
    Problems, ICLR.
    """
    check_count("num_iterations", num_iterations, most=MOST_ITERATIONS)
    denoiser = as_denoiser(denoise_fn, schedule=schedule)
    return PiGDM(denoiser, measurement, schedule, data_variance, num_iterations)


@register
class MMPS(PosteriorDenoiser):
    """See `mmps`."""

    denoise_fn: Any
    measurement: Any
    schedule: Any
    num_iterations: int = static()

    @property
    def num_products(self) -> int:  # type: ignore[override]
        """Products with the transposed Jacobian in an evaluation."""
        return self.num_iterations + 1

    def solve(self, residual: Array, pullback: Pullback, t: Array) -> Array:
        operator = self.measurement.operator
        alpha, sigma = self.schedule.alpha(t), self.schedule.sigma(t)
        ratio = at_positive(jnp.asarray(sigma) ** 2, jnp.asarray(alpha))
        variance = self.measurement.variance(residual)

        def matvec(v: Array) -> Array:
            spread = operator(pullback(operator.transpose(v)))
            return variance * v + per_event(ratio, spread) * spread

        ndim = len(operator.output_shape)
        return solve(matvec, residual, ndim, self.num_iterations)


def mmps(
    denoise_fn: DenoiseFn,
    measurement: Measurement,
    *,
    schedule: Schedule,
    num_iterations: int = 3,
) -> MMPS:
    """Guides by MMPS, moment matching posterior sampling: the covariance of x given z.

    `C = sigma^2 / alpha dx_hat/dz` is the covariance of x given z, for any data; the
    Gaussian of these moments is exact for Gaussian data. The inverse of
    `std^2 I + A C A^T` is by conjugate gradients, each with a product with J^T, which
    is symmetric for an exact denoiser.

    Args:
      denoise_fn: `(z, t) -> Denoised`, of the prior.
      measurement: with std >= 0.
      schedule: the one that t belongs to.
      num_iterations: of conjugate gradients, 1 to 5 in the source.

    Returns:
      A registered callable `(z, t) -> Denoised`. An evaluation counts
      `2 + num_iterations` times in the NFE: a call, and the products.

    Raises:
      ValueError: a setting is out of bounds; at a call, alpha is 0.

    Source: Rozet et al. 2024, arXiv 2405.13712, section 4.
    """
    check_count("num_iterations", num_iterations, most=MOST_ITERATIONS)
    denoiser = as_denoiser(denoise_fn, schedule=schedule)
    return MMPS(denoiser, measurement, schedule, num_iterations)


def both(denoise_fn: DenoiseFn, t: Array) -> Callable[[Array], tuple[Array, Array]]:
    """Makes `z -> (x_hat, eps_hat)` at t, for `jax.vjp(..., has_aux=True)` of x_hat."""

    def found(z: Array) -> tuple[Array, Array]:
        denoised = denoise_fn(z, t)
        return denoised.x, denoised.eps

    return found


def isotropic_variance(schedule: Schedule, t: ArrayLike, variance: ArrayLike) -> Array:
    """Computes variance of x | z for `N(m, v I)`: `v sigma^2 / (alpha^2 v + sigma^2)`.

    Args:
      schedule: any.
      t: scalar or `[*batch]`.
      variance: v, at least 0.

    Returns:
      Like t; 0 where sigma = 0.
    """
    alpha, sigma = jnp.asarray(schedule.alpha(t)), jnp.asarray(schedule.sigma(t))
    v = at_least_float32(variance).astype(sigma.dtype)
    return at_positive(v * sigma**2, alpha**2 * v + sigma**2)


def solve_isotropic(
    measurement: Measurement, residual: Array, spread: Array, num_iterations: int
) -> Array:
    """Solves `(std^2 I + spread A A^T) x = residual`.

    Args:
      measurement: A and std.
      residual: `[*batch, *output]`.
      spread: scalar or `[*batch]`.
      num_iterations: of conjugate gradients.
    """
    operator, variance = measurement.operator, measurement.variance(residual)
    factor = per_event(jnp.asarray(spread), residual)
    matvec = lambda v: variance * v + factor * operator(operator.transpose(v))
    return solve(matvec, residual, len(operator.output_shape), num_iterations)
