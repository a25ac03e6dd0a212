"""DPM-Solver and DPM-Solver++: exponential integrators in the log-SNR.

With ell = log(alpha / sigma) and h = ell_s - ell_t, the exact solution is

    z_s = (sigma_s / sigma_t) z_t + alpha_s int_0^h e^{tau - h} x_hat d tau
        = (alpha_s / alpha_t) z_t - sigma_s int_0^h e^{h - tau} eps_hat d tau;

DPM-Solver++ takes x_hat to be a polynomial in ell, DPM-Solver eps_hat. At order 1 both
are DDIM. All steps are written as DDIM and a correction, which is left out (order 1)
where h is infinite: from alpha = 0 and to sigma = 0.

Source: Lu et al. 2022, arXiv 2206.00927 (DPM-Solver) and arXiv 2211.01095
(DPM-Solver++).
"""

import jax
import numpy as np
from jax import Array

from diffusionflow import _xp as xp
from diffusionflow._dataclass import (
    check_bound,
    check_count,
    check_name,
    check_order,
    register,
    static,
)
from diffusionflow.predictions import Denoised, DenoiseFn
from diffusionflow.samplers import multistep
from diffusionflow.schedules import Schedule

SECOND = ("midpoint", "taylor")
THIRD = ("corrected", "reference")
_FORMS = ("x", "eps")


@register
class DPMSolver(multistep.Multistep):
    """Multistep DPM-Solver and DPM-Solver++ (1, 2M and 3M), one evaluation a step.

    The order rises from 1 in the first steps.

    Args:
      order: 1 to 3.
      variable: "x" for DPM-Solver++, "eps" for DPM-Solver.
      second: of order 2. "taylor" integrates the straight line through two predictions
        exactly; "midpoint" gives its slope the weight of the middle of the step.
      third: of order 3. "corrected" integrates the parabola through three predictions
        exactly. "reference" is what the authors' code and its descendants do: it halves
        the parabola's second-order term, and is of order 2.
      lower_final: of the last `lower_final` steps, the last is of order 1, the one
        before it of order 2 at most, and so on; it steadies runs of few steps. Without
        it only a step to sigma = 0 is lowered.

    Raises:
      ValueError: a number is out of bounds or a name unknown.
    """

    order: int = static(default=2)
    variable: str = static(default="x")
    second: str = static(default="midpoint")
    third: str = static(default="corrected")
    lower_final: int = static(default=0)

    def __post_init__(self) -> None:
        check_order("order", self.order, 1, 3)
        check_count("lower_final", self.lower_final, 0)
        check_name("variable", self.variable, _FORMS)
        check_name("second", self.second, SECOND)
        check_name("third", self.third, THIRD)

    def plan(self, t: Array, s: Array, schedule: Schedule) -> dict[str, Array]:
        alpha_s, sigma_s = schedule.alpha(s), schedule.sigma(s)
        h, usable = multistep.half_logsnr_steps(
            schedule.alpha(t), schedule.sigma(t), alpha_s, sigma_s
        )
        gain, moments = gain_and_moments(self.variable, h, alpha_s, sigma_s, 3)
        second = with_slope(moments, self.second)
        third = list(moments)
        if self.third == "reference":
            third[2] = third[2] / 2
        weights = multistep.past_weights(
            h,
            multistep.orders(usable, self.order, self.lower_final),
            self.order,
            [second, third],
        )
        one = xp.ones_like(alpha_s)
        zero = xp.zeros_like(alpha_s)
        a, b = (one, zero) if self.variable == "x" else (zero, one)
        past = gain[:, None] * weights
        return dict(t=t, z=zero, x=alpha_s, eps=sigma_s, a=a, b=b, past=past)


@register
class DPMSolver2S:
    """Singlestep DPM-Solver and DPM-Solver++ of order 2, two evaluations a step.

    DDIM goes a fraction r of the step in log-SNR; the difference of the two predictions
    is the slope for the whole step. A step of infinite length in log-SNR is DDIM's.

    Args:
      variable: "x" for DPM-Solver++, "eps" for DPM-Solver.
      second: "midpoint" or "taylor", as in `DPMSolver`.
      r: fraction, in (0, 1).

    Raises:
      ValueError: `r` is outside or a name unknown.
    """

    variable: str = static(default="x")
    second: str = static(default="midpoint")
    r: float | Array = 0.5
    num_noises = 0

    def __post_init__(self) -> None:
        check_bound("r", self.r, lambda r: 0 < r < 1, "in (0, 1)")
        check_name("variable", self.variable, _FORMS)
        check_name("second", self.second, SECOND)

    def plan(self, t: Array, s: Array, schedule: Schedule) -> dict[str, Array]:
        alpha_s, sigma_s = schedule.alpha(s), schedule.sigma(s)
        h, usable = multistep.half_logsnr_steps(
            schedule.alpha(t), schedule.sigma(t), alpha_s, sigma_s
        )
        middle = (t + s) / 2  # placeholder where h is infinite
        start = schedule.logsnr(xp.where(usable, t, middle))
        level = start + 2 * xp.asarray(self.r, h.dtype) * h
        between = xp.where(usable, schedule.inverse_logsnr(level), middle)
        gain, moments = gain_and_moments(self.variable, h, alpha_s, sigma_s, 2)
        weight = gain * with_slope(moments, self.second)[1]
        return dict(
            t=t,
            x=alpha_s,
            eps=sigma_s,
            full=usable,
            between=between,
            x_between=schedule.alpha(between),
            eps_between=schedule.sigma(between),
            difference=xp.where(usable, weight, 0) / xp.asarray(self.r, h.dtype),
            calls=1 + usable.astype(np.int32),
        )

    def init(self, z: Array) -> Array:
        return z

    def step(self, z: Array, row: dict, noise: Array, denoise_fn: DenoiseFn) -> Array:
        del noise
        first = denoise_fn(z, row["t"])
        ddim = row["x"] * first.x + row["eps"] * first.eps

        def corrected(first: Denoised) -> Array:
            z = row["x_between"] * first.x + row["eps_between"] * first.eps
            second = denoise_fn(z, row["between"])
            slope = getattr(second, self.variable) - getattr(first, self.variable)
            return ddim + row["difference"] * slope

        return jax.lax.cond(row["full"], corrected, lambda first: ddim, first)

    def output(self, z: Array) -> Array:
        return z


def gain_and_moments(
    variable: str, h: Array, alpha_s: Array, sigma_s: Array, count: int
) -> tuple[Array, list[Array]]:
    """Returns gain and moments of the integral over a step: `multistep.integrals`."""
    if variable == "x":
        return alpha_s * h, multistep.phi_moments(-h, count)
    return -sigma_s * h, multistep.phi_moments(h, count)


def with_slope(moments: list[Array], second: str) -> list[Array]:
    """Returns `moments` with the m_1 of a method of order 2."""
    m_1 = moments[0] / 2 if second == "midpoint" else moments[1]
    return [moments[0], m_1]
