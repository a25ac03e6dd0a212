"""Two-stage ancestral samplers: a single step of DPM-Solver and fresh noise.

With `rho = sigma / alpha` and `q = rho_s / rho_t`, an ancestral step of eta goes to a
level below that of s and adds noise up to it:

    rho_up = eta rho_s sqrt(1 - q^2),    rho_down^2 = rho_s^2 - rho_up^2,

the eta of the DDIM paper: 0 adds no noise, and one stage at 1 is DDPM. From alpha = 0
and to sigma = 0, where the step is infinite in log-SNR, it is `DDIMEta`'s, with one
evaluation.
"""

import jax
import numpy as np
from jax import Array

from diffusionflow import _xp as xp
from diffusionflow._dataclass import check_bound, check_name, register, static
from diffusionflow._numeric import root
from diffusionflow.predictions import Denoised, DenoiseFn
from diffusionflow.samplers.churn import Row, step_ratio
from diffusionflow.samplers.dpm_solver import gain_and_moments, with_slope
from diffusionflow.schedules import Schedule


class _TwoStages:
    """Common checks, plan of the middle level, and step of both samplers."""

    eta: float | Array
    r: float | Array
    num_noises: int

    def __post_init__(self) -> None:
        check_bound("eta", self.eta, lambda eta: 0 <= eta <= 1, "in [0, 1]")
        check_bound("r", self.r, lambda r: 0 < r < 1, "in (0, 1)")

    def _kept(self, q: Array) -> tuple[Array, Array]:
        """`(rho_down / rho_s, rho_up / rho_s)`, by `q = rho_s / rho_t`."""
        eta, fresh = xp.asarray(self.eta, q.dtype), (1 - q) * (1 + q)
        kept = root(q**2 + (1 - eta) * (1 + eta) * fresh)
        return kept, eta * root(fresh)

    def _middle(
        self, t: Array, s: Array, h: Array, usable: Array, schedule: Schedule
    ) -> tuple[Array, Array]:
        """The time a fraction r of the step h in log(alpha / sigma), if it exists."""
        some = (t + s) / 2  # placeholder
        start = schedule.logsnr(xp.where(usable, t, some))
        level = start + 2 * xp.asarray(self.r, h.dtype) * h
        usable = usable & (level <= schedule.logsnr(xp.zeros_like(t)))
        inside = xp.where(usable, level, schedule.logsnr(some))
        return xp.where(usable, schedule.inverse_logsnr(inside), some), usable

    def init(self, z: Array) -> Array:
        return z

    def step(self, z: Array, row: Row, noise: Array, denoise_fn: DenoiseFn) -> Array:
        first = denoise_fn(z, row["t"])
        single = row["x"] * first.x + row["eps"] * first.eps

        def corrected(first: Denoised) -> Array:
            between = row["x_between"] * first.x + row["eps_between"] * first.eps
            if self.num_noises == 2:
                between = between + row["noise_between"] * noise[0]
            second = denoise_fn(between, row["between"])
            change = second.x - first.x
            change_eps = second.eps - first.eps
            return single + row["dx"] * change + row["deps"] * change_eps

        mean = jax.lax.cond(row["full"], corrected, lambda first: single, first)
        return mean + row["noise"] * noise[-1]

    def output(self, z: Array) -> Array:
        return z


def _finite(q: Array) -> tuple[Array, Array]:
    """`(-log q, usable)`, where q > 0; the placeholder is 1."""
    usable = q > 0
    return -xp.log(xp.where(usable, q, 1 / np.e)), usable


@register
class Ancestral2S(_TwoStages):
    """Ancestral sampler with a step of DPM-Solver-2 or DPM-Solver++(2S).

    `DPMSolver2S` goes from t to the level `rho_down` of the module, and noise of
    standard deviation `alpha_s rho_up` brings it to the level of s. eta = 0 is
    `DPMSolver2S`. A step whose second stage would be below the first level of the
    schedule (from sigma_0 > 0) has one stage. Past noise is in the second stage's
    input only through the first: order 1 of the law.

    Args:
      variable: "eps" is `sample_dpm_2_ancestral` of k-diffusion, "x" is
        `sample_dpmpp_2s_ancestral`.
      eta: in [0, 1].
      r: fraction of the step at which the second stage is, in (0, 1).

    Raises:
      ValueError: a number is out of bounds or the variable unknown.

    Source: k-diffusion, `sampling.py`, for alpha = 1; the steps are those of Lu et al.
    2022, arXiv 2206.00927 and 2211.01095.
    """

    variable: str = static(default="x")
    eta: float | Array = 1.0
    r: float | Array = 0.5
    num_noises = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_name("variable", self.variable, ("x", "eps"))

    @xp.quiet
    def plan(self, t: Array, s: Array, schedule: Schedule) -> Row:
        q, alpha, sigma = (
            step_ratio(t, s, schedule),
            schedule.alpha(s),
            schedule.sigma(s),
        )
        kept, up = self._kept(q)
        h, usable = _finite(q * kept)
        between, usable = self._middle(t, s, h, usable, schedule)
        gain, moments = gain_and_moments(self.variable, h, alpha, sigma * kept, 2)
        weight = gain * with_slope(moments, "midpoint")[1]
        weight = xp.where(usable, weight, 0) / xp.asarray(self.r, h.dtype)
        zero = xp.zeros_like(weight)
        return dict(
            t=t,
            x=alpha,
            eps=sigma * kept,
            noise=sigma * up,
            full=usable,
            between=between,
            x_between=schedule.alpha(between),
            eps_between=schedule.sigma(between),
            dx=weight if self.variable == "x" else zero,
            deps=weight if self.variable == "eps" else zero,
            calls=1 + usable.astype(np.int32),
        )


@register
class SDEDPMSolver2S(_TwoStages):
    """Single-step SDE-DPM-Solver++ of two stages, with noise in both: "DPM++ SDE".

    An ancestral step in x goes to the level a fraction r of the step in log-SNR, with
    noise; the result's x_hat, extrapolated to the middle of the step, replaces the
    first in an ancestral step from t to s with noise of its own:

        x = (1 - 1 / (2 r)) x_hat(z_t) + x_hat(z_r) / (2 r).

    Args:
      eta: in [0, 1]; 0 is `DPMSolver2S("x", r=r)`.
      r: in (0, 1).

    Raises:
      ValueError: a number is out of bounds.

    Source: k-diffusion, `sample_dpmpp_sde`, for alpha = 1. There both noises come from
    one Brownian path by default and are not independent; here they are.
    """

    eta: float | Array = 1.0
    r: float | Array = 0.5
    num_noises = 2

    @xp.quiet
    def plan(self, t: Array, s: Array, schedule: Schedule) -> Row:
        q, alpha, sigma = (
            step_ratio(t, s, schedule),
            schedule.alpha(s),
            schedule.sigma(s),
        )
        h, usable = _finite(q)
        between, usable = self._middle(t, s, h, usable, schedule)
        kept, up = self._kept(q)
        r = xp.asarray(self.r, q.dtype)
        kept_between, up_between = self._kept(xp.exp(-r * h))
        sigma_between = schedule.sigma(between)
        weight = alpha * (1 - q * kept) / (2 * r)
        return dict(
            t=t,
            x=alpha,
            eps=sigma * kept,
            noise=sigma * up,
            full=usable,
            between=between,
            x_between=schedule.alpha(between),
            eps_between=sigma_between * kept_between,
            noise_between=sigma_between * up_between,
            dx=xp.where(usable, weight, 0),
            deps=xp.zeros_like(weight),
            calls=1 + usable.astype(np.int32),
        )
