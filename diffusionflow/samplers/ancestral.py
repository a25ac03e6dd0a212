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
    variable: str
    num_noises: int

    def __post_init__(self) -> None:
        check_bound("eta", self.eta, lambda eta: 0 <= eta <= 1, "in [0, 1]")
        check_bound("r", self.r, lambda r: 0 < r < 1, "in (0, 1)")

    def _kept(self, q: Array) -> tuple[Array, Array]:
        """Computes `(rho_down / rho_s, rho_up / rho_s)`, by `q = rho_s / rho_t`."""
        eta, fresh = xp.asarray(self.eta, q.dtype), (1 - q) * (1 + q)
        kept = root(q**2 + (1 - eta) * (1 + eta) * fresh)
        return kept, eta * root(fresh)

    def _row(
        self, t: Array, s: Array, h: Array, kept: Array, up: Array, schedule: Schedule
    ) -> Row:
        """Computes a stage's step, and the level a fraction r of h in half log-SNR."""
        sigma = schedule.sigma(s)
        between, full = self._middle(t, s, h, schedule)
        return dict(
            t=t,
            x=schedule.alpha(s),
            eps=sigma * kept,
            noise=sigma * up,
            full=full,
            between=between,
            x_between=schedule.alpha(between),
            eps_between=schedule.sigma(between),
            calls=1 + full.astype(np.int32),
        )

    def _middle(
        self, t: Array, s: Array, h: Array, schedule: Schedule
    ) -> tuple[Array, Array]:
        """Finds the time of the second stage, and where there is one."""
        usable, some = h < xp.inf, (t + s) / 2  # placeholder
        start = schedule.logsnr(xp.where(usable, t, some))
        ahead = 2 * xp.asarray(self.r, h.dtype) * xp.where(usable, h, 1)
        usable = usable & (start + ahead <= schedule.logsnr(xp.zeros_like(t)))
        inside = xp.where(usable, start + ahead, schedule.logsnr(some))
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
            change = getattr(second, self.variable) - getattr(first, self.variable)
            return single + row["change"] * change

        mean = jax.lax.cond(row["full"], corrected, lambda first: single, first)
        return mean + row["noise"] * noise[-1]

    def output(self, z: Array) -> Array:
        return z


def _length(q: Array) -> Array:
    """Computes `-log q`, infinite where q = 0, with finite derivatives."""
    usable = q > 0
    return xp.where(usable, -xp.log(xp.where(usable, q, 1)), xp.inf)


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
        q = step_ratio(t, s, schedule)
        kept, up = self._kept(q)
        h = _length(q * kept)
        row = self._row(t, s, h, kept, up, schedule)
        h = xp.where(row["full"], h, 1)
        gain, moments = gain_and_moments(self.variable, h, row["x"], row["eps"], 2)
        slope = gain * with_slope(moments, "midpoint")[1]
        change = xp.where(row["full"], slope, 0) / xp.asarray(self.r, q.dtype)
        return dict(row, change=change)


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
    variable = "x"
    num_noises = 2

    @xp.quiet
    def plan(self, t: Array, s: Array, schedule: Schedule) -> Row:
        q, r = step_ratio(t, s, schedule), xp.asarray(self.r, t.dtype)
        kept, up = self._kept(q)
        h = _length(q)
        row = self._row(t, s, h, kept, up, schedule)
        h = xp.where(row["full"], h, 1)
        kept_between, up_between = self._kept(xp.exp(-r * h))
        sigma_between = row["eps_between"]
        change = row["x"] * (1 - q * kept) / (2 * r)
        return dict(
            row,
            eps_between=sigma_between * kept_between,
            noise_between=sigma_between * up_between,
            change=xp.where(row["full"], change, 0),
        )
