"""Adams-Bashforth solvers of the probability-flow ODE in a variable of choice."""

import numpy as np
from jax import Array

from diffusionflow import _xp as xp
from diffusionflow._dataclass import check_name, check_order, register, static
from diffusionflow.samplers import multistep, variables
from diffusionflow.schedules import Schedule

POLYNOMIALS = ("clock", "time", "step")


@register
class AdamsBashforth(multistep.Multistep):
    """Multistep ODE solver (Adams-Bashforth), in the variable's own clock.

    `z_s / scale_s = z_t / scale_t + int P d clock` over the step, P the polynomial
    through the slopes at the last `order` times; the steps may differ in length. Order
    1 is Euler. The order rises from 1 in the first steps. A step with an infinite clock
    ("x" to sigma = 0, "eps" from alpha = 0) is Euler's, one from an infinite slope
    ("dz_dt" at t = 1 of `Sigmoid`) DDIM's, and no later one reaches back over it.

    P is a polynomial in

    - "clock": the clock itself. In "eps" this is rho-AB of DEIS, and linear multistep
      (LMS) of k-diffusion.
    - "time": t, integrated against the clock. In "eps" this is t-AB of DEIS.
    - "step": the number of the step, so that the weights are those of equal steps. In
      "eps" this is iPNDM; its order is at most 2 unless the clock's steps are equal.

    Args:
      order: 1 to 10; above 4 the steps must be short.
      variable: one of `VARIABLES`; the table is in `variables`.
      polynomial: one of `POLYNOMIALS`.

    Raises:
      ValueError: the order is outside, or a name unknown.

    Source: Zhang and Chen 2022, arXiv 2204.13902 (DEIS).
    """

    order: int = static(default=2)
    variable: str = static(default="dz_dt")
    polynomial: str = static(default="clock")

    def __post_init__(self) -> None:
        check_order("order", self.order, 1, 10)
        check_name("variable", self.variable, variables.VARIABLES)
        check_name("polynomial", self.polynomial, POLYNOMIALS)

    def plan(self, t: Array, s: Array, schedule: Schedule) -> dict[str, Array]:
        usable = variables.finite_step(self.variable, t, s, schedule)
        middle = (t + s) / 2  # placeholder where it is not
        start, end = xp.where(usable, t, middle), xp.where(usable, s, middle)
        _, gain = variables.ratio_and_gain(self.variable, start, end, schedule)
        moments = [xp.full_like(gain, 1 / (k + 1)) for k in range(self.order)]
        step = xp.ones_like(gain)
        if self.polynomial == "clock":
            step = gain / variables.scale(self.variable, end, schedule)
        elif self.polynomial == "time":
            step = s - t
            moments = moments_in_time(self.variable, start, end, self.order, schedule)
        step = xp.where(usable, step, 1)
        weights = multistep.past_weights(
            step,
            multistep.orders(usable, self.order),
            self.order,
            [moments] * (self.order - 1),
        )
        a, b = variables.slope(self.variable, start, schedule)
        euler = variables.euler(self.variable, t, s, schedule)
        return dict(t=t, a=a, b=b, past=gain[:, None] * weights, **euler)


def moments_in_time(
    variable: str, t: Array, s: Array, count: int, schedule: Schedule
) -> list[Array]:
    """Computes `int theta^k d clock / (clock_s - clock_t)`, theta the part of t to s.

    By parts, `1 - k int theta^(k-1) p(theta) d theta` with p the part of the way in the
    clock; the integral by Gauss-Legendre quadrature with 64 nodes.
    """
    nodes, weights = np.polynomial.legendre.leggauss(64)
    theta = ((1 + nodes) / 2).astype(t.dtype)
    share = (weights / 2).astype(t.dtype)
    way = lambda s: _way(variable, t[:, None], s, schedule)
    whole = way(s[:, None])
    whole = xp.where(whole != 0, whole, 1)  # 0 in the place of a step of infinite slope
    part = way(t[:, None] + theta[None] * (s - t)[:, None]) / whole
    moments = [xp.ones_like(t)]
    for k in range(1, count):
        power = (share * theta ** (k - 1))[None]
        moments.append(1 - k * xp.sum(power * part, axis=-1))
    return moments


def _way(variable: str, t: Array, s: Array, schedule: Schedule) -> Array:
    """Computes `clock_s - clock_t`."""
    _, gain = variables.ratio_and_gain(variable, t, s, schedule)
    return gain / variables.scale(variable, s, schedule)
