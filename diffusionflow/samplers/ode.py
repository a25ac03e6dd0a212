"""One-step solvers of the probability-flow ODE in a variable of choice.

Every variable p turns the ODE into `d(z / scale) / d clock = a x_hat + b eps_hat`:

| variable | clock                   | scale                   | slope              |
|----------|-------------------------|-------------------------|--------------------|
| "x"      | alpha / sigma           | sigma                   | x                  |
| "eps"    | sigma / alpha           | alpha                   | eps                |
| "u"      | sigma / (alpha + sigma) | alpha + sigma           | u = eps - x        |
| "v"      | atan2(sigma, alpha)     | sqrt(alpha^2 + sigma^2) | v / scale          |
| "dz_dt"  | t                       | 1                       | alpha' x + sigma' eps |

The Euler step in x, eps and u is the same, and is DDIM; in v and dz_dt it is not.
Two-stage steps differ in all of them.

Source: Gao et al. 2024, "Diffusion Meets Flow Matching", table of reparametrised
samplers; the row of v follows from z / scale = cos(clock) x + sin(clock) eps.
"""

import jax
import jax.numpy as jnp
from jax import Array

from diffusionflow import schedules
from diffusionflow._dataclass import check_name, register, static
from diffusionflow.predictions import DenoiseFn
from diffusionflow.schedules import Schedule

VARIABLES = ("x", "eps", "u", "v", "dz_dt")
Row = dict[str, Array]


@register
class Euler:
    """`z_s = scale_s (z_t / scale_t + (clock_s - clock_t) slope_t)`, order 1.

    Args:
      variable: one of `VARIABLES`.

    Raises:
      ValueError: the variable is unknown.
    """

    variable: str = static(default="dz_dt")
    num_noises = 0

    def __post_init__(self) -> None:
        check_name("variable", self.variable, VARIABLES)

    def plan(self, t: Array, s: Array, schedule: Schedule) -> Row:
        return dict(t=t, **_first_stage(self.variable, t, s, schedule))

    def init(self, z: Array) -> Array:
        return z

    def step(self, z: Array, row: Row, noise: Array, denoise_fn: DenoiseFn) -> Array:
        del noise
        denoised = denoise_fn(z, row["t"])
        return row["z"] * z + row["x"] * denoised.x + row["eps"] * denoised.eps

    def output(self, z: Array) -> Array:
        return z


@register
class Heun:
    """The average of the slopes at t and, after an Euler step, at s; order 2.

    `z_s = scale_s (z_t / scale_t + (clock_s - clock_t) (slope_t + slope_s) / 2)`.
    The step to sigma = 0 (where x would have to be told from z alone) and, in "eps",
    the step from alpha = 0 (where the clock is infinite) are Euler's, with one
    evaluation.

    Args:
      variable: one of `VARIABLES`.

    Raises:
      ValueError: the variable is unknown.

    Source: Karras et al. 2022, arXiv 2206.00364, algorithm 1, in any variable.
    """

    variable: str = static(default="dz_dt")
    num_noises = 0

    def __post_init__(self) -> None:
        check_name("variable", self.variable, VARIABLES)

    def plan(self, t: Array, s: Array, schedule: Schedule) -> Row:
        first = _first_stage(self.variable, t, s, schedule)
        second = schedule.sigma(s) > 0
        if self.variable == "eps":
            second &= schedule.alpha(t) > 0
        middle = (t + s) / 2  # stands in where a coefficient or its slope is infinite
        start, end = jnp.where(second, t, middle), jnp.where(second, s, middle)
        ratio, gain = _ratio_and_gain(self.variable, start, end, schedule)
        a, b = _slope(self.variable, end, schedule)
        return dict(
            t=t,
            **first,
            s=end,
            z_second=ratio,
            x_second=gain * a,
            eps_second=gain * b,
            second=second,
            calls=1 + second.astype(jnp.int32),
        )

    def init(self, z: Array) -> Array:
        return z

    def step(self, z: Array, row: Row, noise: Array, denoise_fn: DenoiseFn) -> Array:
        del noise
        denoised = denoise_fn(z, row["t"])
        euler = row["z"] * z + row["x"] * denoised.x + row["eps"] * denoised.eps

        def average(euler: Array) -> Array:
            again = denoise_fn(euler, row["s"])
            slope = row["x_second"] * again.x + row["eps_second"] * again.eps
            return (euler + row["z_second"] * z + slope) / 2

        return jax.lax.cond(row["second"], average, lambda euler: euler, euler)

    def output(self, z: Array) -> Array:
        return z


def _first_stage(variable: str, t: Array, s: Array, schedule: Schedule) -> Row:
    """Factors of z, x and eps in the Euler step."""
    if variable in ("x", "eps", "u"):  # z_t = alpha_t x + sigma_t eps makes it DDIM
        alpha, sigma = schedule.alpha(s), schedule.sigma(s)
        return dict(z=jnp.zeros_like(alpha), x=alpha, eps=sigma)
    ratio, gain = _ratio_and_gain(variable, t, s, schedule)
    a, b = _slope(variable, t, schedule)
    return dict(z=ratio, x=gain * a, eps=gain * b)


def _ratio_and_gain(
    variable: str, t: Array, s: Array, schedule: Schedule
) -> tuple[Array, Array]:
    """`scale_s / scale_t` and `scale_s (clock_s - clock_t)`."""
    alpha_t, sigma_t = schedule.alpha(t), schedule.sigma(t)
    alpha_s, sigma_s = schedule.alpha(s), schedule.sigma(s)
    match variable:
        case "x":
            ratio = sigma_s / sigma_t
            return ratio, alpha_s - ratio * alpha_t
        case "eps":
            ratio = alpha_s / alpha_t
            return ratio, sigma_s - ratio * sigma_t
        case "u":
            ratio = (alpha_s + sigma_s) / (alpha_t + sigma_t)
            return ratio, sigma_s - ratio * sigma_t
        case "v":
            scale_t, scale_s = jnp.hypot(alpha_t, sigma_t), jnp.hypot(alpha_s, sigma_s)
            turn = jnp.arctan2(
                sigma_s * alpha_t - alpha_s * sigma_t,
                alpha_s * alpha_t + sigma_s * sigma_t,
            )
            return scale_s / scale_t, scale_s * turn
    return jnp.ones_like(alpha_t), s - t


def _slope(variable: str, t: Array, schedule: Schedule) -> tuple[Array, Array]:
    """`(a, b)` of the slope `a x + b eps`."""
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    zero, one = jnp.zeros_like(alpha), jnp.ones_like(alpha)
    match variable:
        case "x":
            return one, zero
        case "eps":
            return zero, one
        case "u":
            return -one, one
        case "v":
            scale = jnp.hypot(alpha, sigma)
            return -sigma / scale, alpha / scale
    return schedules.derivatives(schedule, t)
