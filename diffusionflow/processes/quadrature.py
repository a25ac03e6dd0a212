"""A schedule from the coefficients of its SDE, by quadrature."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from diffusionflow import _xp as xp
from diffusionflow._dataclass import (
    as_callable,
    check_bound,
    check_count,
    check_positive,
    is_number,
    register,
    static,
)
from diffusionflow._numeric import (
    check_falls,
    check_on_grid,
    derivative,
    elementwise,
    floating,
    root,
)
from diffusionflow.schedules import Schedule


@register
class FromSde(Schedule):
    """Schedule from the coefficients of an SDE. See `from_sde`."""

    f_fn: Any
    g_fn: Any
    alpha_0: Any = 1.0
    sigma_0: Any = 0.0
    num_nodes: int = static(default=64)

    def __post_init__(self) -> None:
        object.__setattr__(self, "f_fn", as_callable(self.f_fn))
        object.__setattr__(self, "g_fn", as_callable(self.g_fn))
        check_positive("alpha_0", self.alpha_0)
        at_least_0 = lambda sigma: 0 <= sigma < float("inf")
        check_bound("sigma_0", self.sigma_0, at_least_0, "at least 0 and finite")
        check_count("num_nodes", self.num_nodes, 2)
        fields = (self.f_fn, self.g_fn, self.alpha_0, self.sigma_0)
        if all(map(is_number, jax.tree.leaves(fields))):
            check_on_grid(_check_logsnr, as_callable(self.logsnr))

    def _quadrature(self, t: Array) -> tuple[Array, Array, Array]:
        """Computes f at the nodes, `[num_nodes, *t.shape]`, nodes and weights."""
        points, weights, _ = _legendre(self.num_nodes)
        nodes = _expand(points, t) * t[None]
        return elementwise(self.f_fn, nodes), nodes, _expand(weights, t) * t[None]

    def alpha(self, t: ArrayLike) -> Array:
        rates, _, weights = self._quadrature(floating(t))
        return self.alpha_0 * xp.exp(xp.sum(weights * rates, axis=0))

    def _ratio2(self, t: ArrayLike) -> Array:
        """Computes `(sigma / alpha)^2`."""
        t = floating(t)
        rates, nodes, weights = self._quadrature(t)
        partial = xp.asarray(_legendre(self.num_nodes)[2], t.dtype)
        integral = t[None] * xp.tensordot(partial, rates, 1)
        noise = (elementwise(self.g_fn, nodes) / self.alpha_0) ** 2 * xp.exp(
            -2 * integral
        )
        return (self.sigma_0 / self.alpha_0) ** 2 + xp.sum(weights * noise, axis=0)

    def sigma(self, t: ArrayLike) -> Array:
        return self.alpha(t) * root(self._ratio2(t))

    def logsnr(self, t: ArrayLike) -> Array:
        return -xp.log(self._ratio2(t))

    def derivatives(self, t: ArrayLike) -> tuple[Array, Array]:
        rate, sigma = self.f(t), self.sigma(t)
        noisy, g2, safe = self._noisy(t, sigma)
        gained = xp.where(noisy, g2 / (2 * safe), self._start(t))
        return rate * self.alpha(t), rate * sigma + gained

    def square_derivatives(self, t: ArrayLike) -> tuple[Array, Array]:
        rate = 2 * self.f(t)
        squares = self.alpha(t) ** 2, self.sigma(t) ** 2
        return rate * squares[0], rate * squares[1] + self.g2(t)

    def _noisy(self, t: ArrayLike, sigma: Array) -> tuple[Array, Array, Array]:
        """Returns whether sigma is above 0; g^2 and sigma there, else placeholders."""
        noisy = sigma > 0
        g2 = self.g2(xp.where(noisy, floating(t), 0.5))
        return noisy, g2, xp.where(noisy, sigma, 1)

    def _start(self, t: ArrayLike) -> Array:
        """Computes `sigma'` at sigma = 0, t = 0: `sqrt(c / 2)` for `g^2 = c t + ...`.

        c is the slope of g^2 a few rounding units away: g may be a root there. Where
        that does not settle, c is 0 or infinite; so is `sigma'` where g is not 0.
        """
        t = floating(t)
        unit = 4 * xp.full_like(t, jnp.finfo(t.dtype).eps)
        slope = functools.partial(derivative, FromSde.g2, self)
        near, nearer = slope(2 * unit), slope(unit)
        settled = xp.abs(nearer - near) <= unit**0.5 * near
        c = xp.where(settled, near, xp.where(nearer > near, xp.inf, 0))
        return xp.where(self.g2(0 * unit) > 0, xp.inf, root(c / 2))

    def f(self, t: ArrayLike) -> Array:
        return elementwise(self.f_fn, t)

    def g2(self, t: ArrayLike) -> Array:
        return elementwise(self.g_fn, t) ** 2

    def dlogsnr_dt(self, t: ArrayLike) -> Array:
        noisy, g2, safe = self._noisy(t, self.sigma(t))
        return xp.where(noisy, -g2 / safe**2, -xp.inf)


def from_sde(
    f_fn: Callable[[Array], Array],
    g_fn: Callable[[Array], Array],
    alpha_0: ArrayLike = 1.0,
    sigma_0: ArrayLike = 0.0,
    *,
    num_nodes: int = 64,
) -> FromSde:
    """Makes the schedule of `dz = f z dt + g dw`, dt > 0, by Gauss-Legendre quadrature.

    Both integrals of the package run over [0, t] with `num_nodes` nodes, at which f and
    g are called once. For analytic coefficients the error falls exponentially in
    `num_nodes`; towards a singular end it grows: of flow matching's sigma it is 2e-9 at
    t = 0.99 and 8e-3 at 0.999, and at t = 1 no digit is right.
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
      ValueError: a bound is broken, or the log-SNR is not a falling number on a grid of
        [0, 1] (checked where functions and ends have no leaves but Python numbers).
    """
    return FromSde(f_fn, g_fn, alpha_0, sigma_0, num_nodes)


def _check_logsnr(logsnr: np.ndarray) -> None:
    if logsnr.dtype == np.float64:  # float32 may not distinguish neighbours
        check_falls(logsnr)


def _expand(row: np.ndarray, like: Array) -> Array:
    return xp.asarray(row, like.dtype).reshape(row.shape + (1,) * like.ndim)


@functools.cache
def _legendre(num_nodes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Computes nodes, weights on [0, 1], and the matrix of integrals from 0 to each.

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
