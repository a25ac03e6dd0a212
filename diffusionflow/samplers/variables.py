"""Parametrises the probability-flow ODE by a variable of choice.

Every variable p turns the ODE into `d(z / scale) / d clock = a x_hat + b eps_hat`:

| variable | clock                   | scale                   | slope              |
|----------|-------------------------|-------------------------|--------------------|
| "x"      | alpha / sigma           | sigma                   | x                  |
| "eps"    | sigma / alpha           | alpha                   | eps                |
| "u"      | sigma / (alpha + sigma) | alpha + sigma           | u = eps - x        |
| "v"      | atan2(sigma, alpha)     | sqrt(alpha^2 + sigma^2) | v / scale          |
| "dz_dt"  | t                       | 1                       | alpha' x + sigma' eps |

The Euler step in x, eps and u is the same, and is DDIM; in v and dz_dt it is not.
Steps of higher order differ in all of them.

Source: Gao et al. 2024, "Diffusion Meets Flow Matching", table of reparametrised
samplers; the row of v follows from z / scale = cos(clock) x + sin(clock) eps.
"""

from jax import Array

from diffusionflow import _xp as xp
from diffusionflow.schedules import Schedule

VARIABLES = ("x", "eps", "u", "v", "dz_dt")


def euler(variable: str, t: Array, s: Array, schedule: Schedule) -> dict[str, Array]:
    """Returns the factors `z`, `x` and `eps` of the Euler step from `t` to `s`.

    It is DDIM's in "dz_dt" where the slope at `t` is infinite.
    """
    alpha, sigma = schedule.alpha(s), schedule.sigma(s)
    ddim = dict(z=xp.zeros_like(alpha), x=alpha, eps=sigma)
    if variable in ("x", "eps", "u"):  # z_t = alpha_t x + sigma_t eps makes it DDIM
        return ddim
    ratio, gain = ratio_and_gain(variable, t, s, schedule)
    usable = finite_step(variable, t, s, schedule)
    a, b = slope(variable, xp.where(usable, t, (t + s) / 2), schedule)
    factors = dict(z=ratio, x=gain * a, eps=gain * b)
    return {name: xp.where(usable, factors[name], ddim[name]) for name in ddim}


def ratio_and_gain(
    variable: str, t: Array, s: Array, schedule: Schedule
) -> tuple[Array, Array]:
    """Returns `scale_s / scale_t` and `scale_s (clock_s - clock_t)`."""
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
            scale_t, scale_s = xp.hypot(alpha_t, sigma_t), xp.hypot(alpha_s, sigma_s)
            turn = xp.arctan2(
                sigma_s * alpha_t - alpha_s * sigma_t,
                alpha_s * alpha_t + sigma_s * sigma_t,
            )
            return scale_s / scale_t, scale_s * turn
    return xp.ones_like(alpha_t), s - t


def scale(variable: str, t: Array, schedule: Schedule) -> Array:
    """Returns the scale, by which z is divided."""
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    match variable:
        case "x":
            return sigma
        case "eps":
            return alpha
        case "u":
            return alpha + sigma
        case "v":
            return xp.hypot(alpha, sigma)
    return xp.ones_like(alpha)


def slope(variable: str, t: Array, schedule: Schedule) -> tuple[Array, Array]:
    """Returns `(a, b)` of the slope `a x + b eps`."""
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    zero, one = xp.zeros_like(alpha), xp.ones_like(alpha)
    match variable:
        case "x":
            return one, zero
        case "eps":
            return zero, one
        case "u":
            return -one, one
        case "v":
            length = xp.hypot(alpha, sigma)
            return -sigma / length, alpha / length
    return schedule.derivatives(t)


def finite_step(variable: str, t: Array, s: Array, schedule: Schedule) -> Array:
    """Returns whether `clock_s - clock_t` and the slope's factors at `t` are finite."""
    alpha = xp.minimum(schedule.alpha(t), schedule.alpha(s))
    sigma = xp.minimum(schedule.sigma(t), schedule.sigma(s))
    match variable:
        case "x":
            return sigma > 0
        case "eps":
            return alpha > 0
        case "dz_dt":  # alpha' is infinite at t = 1 of `Sigmoid`
            a, b = slope(variable, t, schedule)
            return xp.isfinite(a) & xp.isfinite(b)
    return xp.full_like(sigma, True, bool)


def between(
    variable: str, t: Array, s: Array, fraction: float, schedule: Schedule
) -> Array:
    """Returns the time at which the clock is `fraction` of the way from `t` to `s`."""
    if fraction in (0, 1):
        return s if fraction else t
    if variable == "dz_dt":
        return t + fraction * (s - t)
    alpha_t, sigma_t = schedule.alpha(t), schedule.sigma(t)
    alpha_s, sigma_s = schedule.alpha(s), schedule.sigma(s)
    share_t: float | Array = 1 - fraction
    share_s: float | Array = fraction
    if variable == "v":  # along the arc; the common factor 1 / sin(turn) drops out
        turn = xp.arctan2(
            sigma_t * alpha_s - alpha_t * sigma_s,
            alpha_s * alpha_t + sigma_s * sigma_t,
        )
        some = turn != 0  # else both ends are the same
        turn = xp.where(some, turn, 1)
        share_t, share_s = xp.sin(share_t * turn), xp.sin(share_s * turn)
    weight_t = share_t / scale(variable, t, schedule)
    weight_s = share_s / scale(variable, s, schedule)
    alpha = weight_t * alpha_t + weight_s * alpha_s
    sigma = weight_t * sigma_t + weight_s * sigma_s
    return schedule.inverse_logsnr(2 * xp.log(alpha / sigma))
