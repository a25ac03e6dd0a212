"""Common code of multistep samplers: predictions of earlier steps, their weights.

A step of order p puts a polynomial through the predictions at the last p times and
integrates it. With the step as the unit of the clock (theta = 0 at t, 1 at s), the
earlier times are at theta < 0, and

    int_0^1 kernel(theta) P(theta) d theta = sum_j w_j p_j,
    w_j = sum_k L_jk m_k,    m_k = int_0^1 kernel(theta) theta^k d theta,

where L_jk are the coefficients of Lagrange's polynomials. A sampler is its clock and
its moments m_k. Weights are kept for the differences to the newest prediction, so that
what remains without them is an Euler step, which is finite at both ends.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

from diffusionflow import _xp as xp
from diffusionflow.predictions import Denoised, DenoiseFn


class State(NamedTuple):
    """`z` and the predictions of earlier steps, newest first, `[count, *z.shape]`."""

    z: Array
    past: Array

    @classmethod
    def first(cls, z: Array, count: int) -> "State":
        return cls(z, jnp.zeros((count, *z.shape), z.dtype))

    def push(self, z: Array, prediction: Array) -> "State":
        """Returns the state at `z`, with one more prediction and without the oldest."""
        past = xp.concatenate([prediction[None], self.past])[:-1]
        return State(z, past)


class Multistep:
    """Base class of multistep samplers: their state, step and output.

    Columns of a row: `t`; `z`, `x`, `eps` of the Euler step; `a`, `b` of the slope
    `a x_hat + b eps_hat`; `past [order - 1]`, the weights of the differences
    `slope_earlier - slope`.
    """

    num_noises = 0
    order: int

    def init(self, z: Array) -> State:
        return State.first(z, self.order - 1)

    def step(
        self, state: State, row: dict, noise: Array, denoise_fn: DenoiseFn
    ) -> State:
        del noise
        return self.advance(state, row, denoise_fn(state.z, row["t"]))

    def advance(self, state: State, row: dict, denoised: Denoised) -> State:
        """Takes the step with the prediction at its start."""
        slope = row["a"] * denoised.x + row["b"] * denoised.eps
        z = row["z"] * state.z + row["x"] * denoised.x + row["eps"] * denoised.eps
        z = z + weigh(row["past"], state.past - slope[None])
        return state.push(z, slope) if self.order > 1 else State(z, state.past)

    def output(self, state: State) -> Array:
        return state.z


def weigh(weights: Array, values: Array) -> Array:
    """Returns `sum_j weights_j values_j`, over the leading axis."""
    return xp.sum(
        weights.reshape(-1, *(1,) * (values.ndim - 1)).astype(values.dtype) * values,
        axis=0,
    )


def orders(usable: Array, order: int, lower_final: int = 0) -> Array:
    """Returns the order of every step, int `[num_steps]`.

    It rises by one a step; a step that is not usable (its clock is infinite) is of
    order 1 and no later step reaches back over it.

    Args:
      usable: `[num_steps]`.
      order: the highest.
      lower_final: of the last `lower_final` steps the order is at most 1 for the last,
        2 for the one before it, and so on.
    """
    count = usable.shape[0]
    reach, values = usable, np.ones((count,), np.int32)
    for back in range(1, order):
        reach = reach & earlier(usable, back, False)
        values = values + reach.astype(np.int32)
    left = count - np.arange(count, dtype=np.int32)
    return xp.where(left <= lower_final, xp.minimum(values, left), values)


def earlier(column: Array, back: int, fill: float) -> Array:
    """Returns `column` of `back` steps before; `fill` where there was none."""
    back = min(back, column.shape[0])
    start = xp.full_like(column[:back], fill)
    return xp.concatenate([start, column[: column.shape[0] - back]])


def nodes(step: Array, count: int, active: Array) -> list[Array]:
    """Returns theta of the newest time and of the `count - 1` before it.

    Args:
      step: length of every step in the clock, finite, `[num_steps]`.
      count: number of nodes.
      active: where they are used; elsewhere 0, -1, -2, ... are placeholders.
    """
    thetas, total = [xp.zeros_like(step)], xp.zeros_like(step)
    for back in range(1, count):
        total = total + earlier(step, back, 1)
        thetas.append(xp.where(active, -total / xp.where(active, step, 1), -back))
    return thetas


def integrals(nodes: Sequence[Array], moments: Sequence[Array]) -> list[Array]:
    """Returns weights w_j of predictions at `nodes`; `moments` are m_0, m_1, ..."""
    weights = []
    for j, node in enumerate(nodes):
        polynomial = [xp.ones_like(node)]
        for m, other in enumerate(nodes):
            if m == j:
                continue
            shifted = [xp.zeros_like(node), *polynomial]
            scaled = [-other * c for c in polynomial] + [xp.zeros_like(node)]
            gap = node - other
            polynomial = [(a + b) / gap for a, b in zip(shifted, scaled, strict=True)]
        pairs = zip(polynomial, moments, strict=False)
        weight: Any = sum(c * moment for c, moment in pairs)
        weights.append(weight)
    return weights


def past_weights(
    step: Array, orders: Array, order: int, moments: Sequence[Sequence[Array]]
) -> Array:
    """Finds weights of differences to the newest prediction, `[num_steps, order - 1]`.

    Args:
      step: as in `nodes`.
      orders: of every step, `[num_steps]`.
      order: the highest.
      moments: `moments[p - 2]` for steps of order p.
    """
    columns = [xp.zeros_like(step)] * (order - 1)
    for p in range(2, order + 1):
        active = orders == p
        weights = integrals(nodes(step, p, active), moments[p - 2])[1:]
        for j, weight in enumerate(weights):
            columns[j] = xp.where(active, weight, columns[j])
    if not columns:
        return xp.zeros_like(step)[:, None][:, :0]
    return xp.stack(columns, axis=-1)


def phi_moments(h: Array, count: int) -> list[Array]:
    """Computes `int_0^1 e^{(1 - theta) h} theta^k d theta`, k below `count`, h finite.

    These are `k! phi_{k+1}(h)` of exponential integrators. Near h = 0, where the
    recursion `m_k = (k m_{k-1} - 1) / h` cancels, they are summed as a series.
    """
    small = xp.abs(h) < 1
    tiny, large = xp.where(small, h, 0), xp.where(small, 1, h)
    # the k-th series is sum_n h^n k! / (k + 1 + n)!
    factorials = np.cumprod(np.arange(1.0, count + _TERMS + 1))
    tables = [
        math.factorial(k) / factorials[k : k + _TERMS].astype(h.dtype)
        for k in range(count)
    ]
    powers = xp.vander(tiny, _TERMS, increasing=True)
    moments: list[Array] = []
    closed: Any = None
    for k, table in enumerate(tables):
        closed = xp.expm1(large) / large if k == 0 else (k * closed - 1) / large
        moments.append(xp.where(small, xp.sum(powers * table[None], axis=-1), closed))
    return moments


_TERMS = 18  # 1 / 19! is below the rounding of float64


def half_logsnr_steps(
    alpha_t: Array, sigma_t: Array, alpha_s: Array, sigma_s: Array
) -> tuple[Array, Array]:
    """Computes `(h, usable)`: the change of log(alpha / sigma), and if it is finite.

    Where it is not, h is the placeholder 1; steps may go either way.
    """
    above, below = alpha_t * sigma_s, alpha_s * sigma_t
    usable = (above > 0) & (below > 0)
    return xp.log(xp.where(usable, below / xp.where(usable, above, 1), np.e)), usable
