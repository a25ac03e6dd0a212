"""Processes as SDEs (f, g, eta) and as interpolants (alpha, sigma, epsilon).

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

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from diffusionflow import schedules
from diffusionflow._dataclass import (
    as_callable,
    check_bound,
    check_name,
    is_traced,
    register,
    static,
)
from diffusionflow._numeric import (
    at_least_float32,
    elementwise,
    in_float64,
    root,
    solve_falling,
)
from diffusionflow.predictions import Denoised, DenoiseFn, per_event
from diffusionflow.schedules import Schedule

DIRECTIONS = ("reverse", "forward")


class Sde(NamedTuple):
    """Coefficients of `dz = f z dt + g dw` and eta of its reversal, like `t` each."""

    f: Array
    g: Array
    eta: Array


class Interpolant(NamedTuple):
    """`z = alpha x + sigma eps` and the diffusion of its SDE, like `t` each."""

    alpha: Array
    sigma: Array
    epsilon: Array


class Terms(NamedTuple):
    """`dz = drift dt + diffusion dw`: `[*batch, *event]`, and `()` or `[*batch]`."""

    drift: Array
    diffusion: Array


def to_sde(schedule: Schedule, t: ArrayLike, *, epsilon: ArrayLike = 0.0) -> Sde:
    """`f`, `g` and `eta = epsilon / g` of a schedule at times `t`.

    Args:
      schedule: any.
      t: times in [0, 1], any shape.
      epsilon: diffusion of the generative process, scalar or of the shape of `t`.

    Returns:
      `Sde`. Where alpha = 0, g is infinite and eta is 0; where g = 0, eta is infinite
      but for epsilon = 0, where it is 0.
    """
    g = root(schedules.g2(schedule, t))
    epsilon = jnp.broadcast_to(jnp.asarray(epsilon, g.dtype), g.shape)
    some = epsilon != 0
    eta = jnp.where(some, epsilon / jnp.where(some, g, 1), 0)
    return Sde(schedules.f(schedule, t), g, eta)


def to_interpolant(
    schedule: Schedule, t: ArrayLike, *, eta: ArrayLike = 0.0
) -> Interpolant:
    """`alpha`, `sigma` and `epsilon = eta g` of a schedule at times `t`.

    For an SDE given by its coefficients, the schedule is `from_sde(f_fn, g_fn)`.

    Args:
      schedule: any.
      t: times in [0, 1], any shape.
      eta: noise of the generative process relative to g: 0 the probability flow, 1 the
        reversal of the forward SDE. Scalar or of the shape of `t`.

    Returns:
      `Interpolant`.
    """
    g = root(schedules.g2(schedule, t))
    eta = jnp.broadcast_to(jnp.asarray(eta, g.dtype), g.shape)
    return Interpolant(schedule.alpha(t), schedule.sigma(t), _times(eta, g))


@register
class FromSde:
    """See `from_sde`."""

    f_fn: Any
    g_fn: Any
    alpha_0: Any = 1.0
    sigma_0: Any = 0.0
    num_nodes: int = static(default=64)

    def __post_init__(self) -> None:
        object.__setattr__(self, "f_fn", as_callable(self.f_fn))
        object.__setattr__(self, "g_fn", as_callable(self.g_fn))
        check_bound("alpha_0", self.alpha_0, lambda alpha: alpha > 0, "positive")
        check_bound("sigma_0", self.sigma_0, lambda sigma: sigma >= 0, "at least 0")
        check_bound("num_nodes", self.num_nodes, lambda count: count >= 2, "at least 2")

    def _quadrature(self, t: Array) -> tuple[Array, Array, Array]:
        """Values of f at the nodes, `[num_nodes, *t.shape]`, nodes and weights."""
        points, weights, _ = _legendre(self.num_nodes)
        nodes = _expand(points, t) * t[None]
        return elementwise(self.f_fn, nodes), nodes, _expand(weights, t) * t[None]

    def alpha(self, t: ArrayLike) -> Array:
        rates, _, weights = self._quadrature(at_least_float32(t))
        return self.alpha_0 * jnp.exp(jnp.sum(weights * rates, axis=0))

    def _ratio2(self, t: ArrayLike) -> Array:
        """`(sigma / alpha)^2`."""
        t = at_least_float32(t)
        rates, nodes, weights = self._quadrature(t)
        partial = jnp.asarray(_legendre(self.num_nodes)[2], t.dtype)
        high = jax.lax.Precision.HIGHEST
        integral = t[None] * jnp.tensordot(partial, rates, 1, precision=high)
        noise = (elementwise(self.g_fn, nodes) / self.alpha_0) ** 2 * jnp.exp(
            -2 * integral
        )
        return (self.sigma_0 / self.alpha_0) ** 2 + jnp.sum(weights * noise, axis=0)

    def sigma(self, t: ArrayLike) -> Array:
        return self.alpha(t) * root(self._ratio2(t))

    def logsnr(self, t: ArrayLike) -> Array:
        return -jnp.log(self._ratio2(t))

    def inverse_logsnr(self, logsnr: ArrayLike) -> Array:
        """By bisection; beyond a finite end the log-SNR is continued linearly."""
        return solve_falling(self.logsnr, logsnr, 0.0, 1.0)

    def derivatives(self, t: ArrayLike) -> tuple[Array, Array]:
        """See `schedules.derivatives`."""
        rate, sigma = self.f(t), self.sigma(t)
        return rate * self.alpha(t), rate * sigma + self.g2(t) / (2 * sigma)

    def f(self, t: ArrayLike) -> Array:
        """See `schedules.f`."""
        return elementwise(self.f_fn, t)

    def g2(self, t: ArrayLike) -> Array:
        """See `schedules.g2`."""
        return elementwise(self.g_fn, t) ** 2

    def dlogsnr_dt(self, t: ArrayLike) -> Array:
        """See `schedules.dlogsnr_dt`."""
        return -self.g2(t) / self.sigma(t) ** 2


def from_sde(
    f_fn: Callable[[Array], Array],
    g_fn: Callable[[Array], Array],
    alpha_0: ArrayLike = 1.0,
    sigma_0: ArrayLike = 0.0,
    *,
    num_nodes: int = 64,
) -> FromSde:
    """The schedule of `dz = f z dt + g dw`, dt > 0, by Gauss-Legendre quadrature.

    Both integrals of the module run over [0, t] with `num_nodes` nodes, at which f and
    g are called once. For analytic coefficients the error falls exponentially in
    `num_nodes`; towards a singular end, such as t = 1 of flow matching, it grows.
    Numbers to be learned, vmapped or otherwise traced belong in a
    `jax.tree_util.Partial(fn, *numbers)`; what a bare function closes over is fixed.

    Args:
      f_fn: `t -> f`, elementwise on [0, 1], per unit of time.
      g_fn: `t -> g`, elementwise on [0, 1], per square root of time.
      alpha_0: alpha at t = 0, positive.
      sigma_0: sigma at t = 0, at least 0.
      num_nodes: of the quadrature, at least 2.

    Returns:
      A schedule; its inverse is a bisection.

    Raises:
      ValueError: a bound is broken.
    """
    return FromSde(f_fn, g_fn, alpha_0, sigma_0, num_nodes)


def forward(z: Array, t: ArrayLike, *, schedule: Schedule) -> Terms:
    """The SDE from data to noise, dt > 0: `dz = f z dt + g dw`.

    Args:
      z: `[*batch, *event]`.
      t: scalar or `[*batch]`.
      schedule: any.

    Returns:
      `Terms`; infinite where alpha = 0.

    Raises:
      ValueError: `t` does not begin the shape of `z`.
    """
    z, t = at_least_float32(z), at_least_float32(t)
    drift = per_event(schedules.f(schedule, t), z) * z
    return Terms(drift, root(schedules.g2(schedule, t)))


def probability_flow(
    denoise_fn: DenoiseFn, z: Array, t: ArrayLike, *, schedule: Schedule
) -> Terms:
    """The ODE of the same marginals, in both directions of time.

    `dz / dt = f z - g^2 / 2 score = alpha' x_hat + sigma' eps_hat`.

    Args:
      denoise_fn: `(z, t) -> Denoised`.
      z: `[*batch, *event]`.
      t: scalar or `[*batch]`.
      schedule: the one of `denoise_fn`.

    Returns:
      `Terms` with diffusion 0.

    Raises:
      ValueError: `t` does not begin the shape of `z`, or sigma = 0 with an infinite
        slope at a `t` that is not traced (t = 0 of `LinearBeta`), where the score
        cannot be recovered from `Denoised`; at traced times the drift is not finite.
    """
    return reverse(denoise_fn, z, t, schedule=schedule, eta=0.0)


def reverse(
    denoise_fn: DenoiseFn,
    z: Array,
    t: ArrayLike,
    *,
    schedule: Schedule,
    eta: ArrayLike = 1.0,
) -> Terms:
    """The SDE from noise to data with noise `eta g`, **dt < 0**.

    `dz = (f z - (1 + eta^2) / 2 g^2 score) dt + eta g dw`; its drift is computed as
    `alpha' x_hat + sigma' eps_hat + eta^2 (sigma' - f sigma) eps_hat`.

    Args:
      denoise_fn: `(z, t) -> Denoised`.
      z: `[*batch, *event]`.
      t: scalar or `[*batch]`.
      schedule: the one of `denoise_fn`.
      eta: scalar or of the shape of `t`; 0 is the probability flow, 1 the reversal of
        `forward`. Any value keeps the marginals.

    Returns:
      `Terms`; infinite where alpha = 0 and eta is not.

    Raises:
      ValueError: `t` does not begin the shape of `z`, or sigma = 0 with an infinite
        slope at a `t` that is not traced (t = 0 of `LinearBeta`), where the score
        cannot be recovered from `Denoised`; at traced times the drift is not finite.

    Source: Song et al. 2021, arXiv 2011.13456 (eta = 1 and 0); Gao et al. 2024,
    "Diffusion Meets Flow Matching" (any eta).
    """
    t = at_least_float32(t)
    dsigma = schedules.derivatives(schedule, t)[1]
    eta = jnp.broadcast_to(jnp.asarray(eta, t.dtype), t.shape)
    rate = dsigma - schedules.f(schedule, t) * schedule.sigma(t)  # g^2 / (2 sigma)
    g = root(schedules.g2(schedule, t))
    mean, denoised = _mean_slope(denoise_fn, z, t, schedule)
    added = per_event(_times(eta**2, rate), mean) * denoised.eps
    return Terms(mean + added, _times(eta, g))


def interpolant(
    denoise_fn: DenoiseFn,
    z: Array,
    t: ArrayLike,
    *,
    schedule: Schedule,
    epsilon: ArrayLike,
    direction: str = "reverse",
) -> Terms:
    """The SDE of the same marginals with a diffusion of one's own, in either direction.

    `dz = (E[dz/dt | z] -+ epsilon^2 / 2 score) dt + epsilon dw` with minus for
    "reverse", dt < 0, and plus for "forward", dt > 0; `score = -eps_hat / sigma`. It is
    the function `reverse` for `epsilon = eta g`.

    Args:
      denoise_fn: `(z, t) -> Denoised`.
      z: `[*batch, *event]`.
      t: scalar or `[*batch]`.
      schedule: the one of `denoise_fn`.
      epsilon: the diffusion at `t`, scalar or of the shape of `t`.
      direction: "reverse" (towards the data) or "forward".

    Returns:
      `Terms`; infinite where sigma = 0 and epsilon is not. Where epsilon is 0 the score
      is left out.

    Raises:
      ValueError: the direction is unknown.
      ValueError: `t` does not begin the shape of `z`, or sigma = 0 with an infinite
        slope at a `t` that is not traced (t = 0 of `LinearBeta`), where the score
        cannot be recovered from `Denoised`; at traced times the drift is not finite.

    Source: Albergo et al. 2023, arXiv 2303.08797; Ma et al. 2024, arXiv 2401.08740
    (w_t there is epsilon^2 / 2).
    """
    check_name("direction", direction, DIRECTIONS)
    t = at_least_float32(t)
    epsilon = jnp.broadcast_to(jnp.asarray(epsilon, t.dtype), t.shape)
    rate = _times(epsilon**2, 0.5 / schedule.sigma(t))
    mean, denoised = _mean_slope(denoise_fn, z, t, schedule)
    added = per_event(rate, mean) * denoised.eps
    return Terms(mean + added if direction == "reverse" else mean - added, epsilon)


def _mean_slope(
    denoise_fn: DenoiseFn, z: Array, t: Array, schedule: Schedule
) -> tuple[Array, Denoised]:
    """`E[dz/dt | z]`, and what it was made of."""
    z = at_least_float32(z)
    _check_slope(schedule, t)
    denoised = denoise_fn(z, t)
    a, b = (per_event(part, z) for part in schedules.derivatives(schedule, t))
    return a * denoised.x + b * denoised.eps, denoised


def _check_slope(schedule: Schedule, t: Array) -> None:
    """Refuses sigma = 0 with an infinite slope: eps_hat / sigma is lost there."""
    if is_traced(schedule, t):
        return
    lost = lambda schedule, t: (
        (schedule.sigma(t) == 0) & jnp.isinf(schedules.derivatives(schedule, t)[1])
    )
    found = np.asarray(in_float64(lost, schedule, t))
    if found.any():
        raise ValueError(
            f"t={np.asarray(t)[found].ravel()[0]}: sigma is 0 and its slope infinite "
            f"on {schedule}, where x_hat and eps_hat do not say the score; keep away "
            "from that time"
        )


def _times(factor: Array, value: Array) -> Array:
    """`factor * value`, 0 where the factor is, for infinite values too."""
    some = factor != 0
    return factor * jnp.where(some, value, 0)


def _expand(row: np.ndarray, like: Array) -> Array:
    return jnp.asarray(row, like.dtype).reshape(row.shape + (1,) * like.ndim)


@functools.cache
def _legendre(num_nodes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Nodes and weights on [0, 1], and the matrix of integrals from 0 to each node.

    The matrix integrates the polynomial through the values at the nodes: the Legendre
    coefficients of that polynomial are sums over the nodes, exactly, and
    `(2 k + 1) int P_k = P_(k + 1) - P_(k - 1)`.
    """
    points, weights = np.polynomial.legendre.leggauss(num_nodes)
    values = np.polynomial.legendre.legvander(points, num_nodes)  # [node, degree]
    degrees = np.arange(num_nodes)
    coefficients = values[:, :-1] * weights[:, None] * (degrees + 0.5)
    below = np.concatenate([-np.ones((num_nodes, 1)), values[:, :-2]], axis=1)
    integrals = (values[:, 1:] - below) / (2 * degrees + 1)
    return (1 + points) / 2, weights / 2, integrals @ coefficients.T / 2
