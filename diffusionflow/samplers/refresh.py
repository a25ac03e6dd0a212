"""Refresh: part of the noise of z is replaced, then z follows the probability flow."""

from typing import Any

from jax import Array

from diffusionflow import _xp as xp
from diffusionflow._dataclass import as_callable, check_name, register, static
from diffusionflow._numeric import root
from diffusionflow.samplers import variables
from diffusionflow.samplers.churn import OneStep, Row
from diffusionflow.samplers.diffusions import Sigma
from diffusionflow.schedules import Schedule

_NOISES = ("replaced", "euler")
_STEPS = ("x", "dz_dt")


@register
class Refresh(OneStep):
    """Replaces part of the noise at the level of z, then takes a step of the flow.

    With the diffusion epsilon_t of an SDE that keeps the marginals, a step of length
    `h = t - s` keeps the fraction

        k = 1 - min(h epsilon_t^2 / (2 sigma_t^2), 1)

    of the noise: `z' = alpha_t x_hat + sigma_t (k eps_hat + n xi)`. Then z' goes to s
    with the same prediction, by DDIM ("x") or by Euler's method in time ("dz_dt").

    - "replaced": `n = sqrt(1 - k^2)`, which keeps the level; with DDIM this is a member
      of the churn family,
    - "euler": `n = sqrt(2 (1 - k))`, the noise of Euler and Maruyama; with "dz_dt" this
      is `EulerMaruyama(diffusion_fn)`, but for the bound on k.

    Noise is left out of the step to sigma = 0. Where epsilon_t is infinite, k is 0.

    Args:
      diffusion_fn: as in `EulerMaruyama`.
      noise: "replaced" or "euler".
      variable: of the step, "x" or "dz_dt".

    Raises:
      ValueError: a name is unknown.

    Source: `SDESampler` of rectified-flow (Liu et al.): `Sigma(noise_scale, 1 +
    noise_decay_rate)`, with "stable" for "replaced" and "curved" for "x".
    """

    diffusion_fn: Any = Sigma(1.0)
    noise: str = static(default="replaced")
    variable: str = static(default="x")

    def __post_init__(self) -> None:
        object.__setattr__(self, "diffusion_fn", as_callable(self.diffusion_fn))
        check_name("noise", self.noise, _NOISES)
        check_name("variable", self.variable, _STEPS)

    def plan(self, t: Array, s: Array, schedule: Schedule) -> Row:
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        sigma_s = schedule.sigma(s)
        undone = self._undone(t, s, sigma, schedule)
        more = 2 * undone if self.noise == "euler" else undone * (2 - undone)
        step = variables.euler(self.variable, t, s, schedule)
        in_time = step["z"] > 0  # else it is DDIM's
        carried = xp.where(in_time, sigma, sigma_s)  # the noise of z at s
        return dict(
            t=t,
            x=step["z"] * alpha + step["x"],
            eps=step["z"] * sigma + step["eps"] - carried * undone,
            noise=xp.where(sigma_s > 0, carried * root(more), 0),
        )

    def _undone(self, t: Array, s: Array, sigma: Array, schedule: Schedule) -> Array:
        """Computes `1 - k`."""
        epsilon = self.diffusion_fn(t, schedule=schedule)
        finite = xp.isfinite(epsilon)
        some = xp.where(finite, t, (t + s) / 2)  # placeholder
        epsilon = self.diffusion_fn(some, schedule=schedule)
        part = (t - s) * epsilon**2 / (2 * sigma**2)
        return xp.where(finite, xp.minimum(part, 1), 1)
