"""Stochastic samplers: Euler-Maruyama and Heun of the SDE with any epsilon_t.

The SDE is `processes.interpolant`, dt < 0: its drift is
`b = alpha' x_hat + (sigma' + epsilon^2 / (2 sigma)) eps_hat`, which for epsilon = eta g
is that of `processes.reverse`.

**First step.** Where epsilon_t or the drift is infinite (`Eta` at alpha = 0, every
diffusion at t = 1 of `schedules.Sigmoid`) no step in t exists; there z_s is
`alpha_s x_hat + sqrt(sigma_s^2 - n^2) eps_hat + n xi` with `n` the lesser of
`epsilon_t sqrt(t - s)` and sigma_s. From pure noise that is the law of z_s for data at
x_hat; it is DDIM's step for epsilon_t = 0 and that of DDPM for an infinite one.

**Step to sigma = 0**, where `last` chooses: "mean" leaves the noise out, "x_hat" is
`alpha_s x_hat`, "flow" is the Euler step of the probability flow, "noise" is a step
like any other. A schedule with sigma(0) > 0 has no such step; there `sample` ends with
one that returns x_hat.
"""

from typing import Any

import jax
import numpy as np
from jax import Array

from diffusionflow import _xp as xp
from diffusionflow._dataclass import as_callable, check_name, register, static
from diffusionflow._numeric import root
from diffusionflow.predictions import DenoiseFn
from diffusionflow.samplers.churn import Row
from diffusionflow.samplers.diffusions import Eta
from diffusionflow.schedules import Schedule

LAST = ("mean", "x_hat", "flow", "noise")


class _Sde:
    """Common code of both samplers."""

    num_noises = 1
    diffusion_fn: Any
    last: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "diffusion_fn", as_callable(self.diffusion_fn))
        check_name("last", self.last, LAST)

    def _first_stage(self, t: Array, s: Array, schedule: Schedule) -> tuple[Row, Array]:
        """Computes the Euler step with noise `noise`, and where it is from infinity."""
        middle = (t + s) / 2  # placeholder where the SDE is infinite
        infinite = ~xp.isfinite(sum(self._drift(t, schedule)))
        start = xp.where(infinite, middle, t)
        a, b = self._drift(start, schedule)
        flow = schedule.derivatives(start)[1]
        alpha, sigma = schedule.alpha(s), schedule.sigma(s)
        noise = xp.sqrt(t - s) * self.diffusion_fn(start, schedule=schedule)
        fresh = self._fresh(t, s, sigma, schedule)
        z, x, eps = xp.ones_like(t), (s - t) * a, (s - t) * b
        end = (sigma == 0) & ~infinite
        match self.last:
            case "mean":
                noise = xp.where(end, 0, noise)
            case "flow":
                noise = xp.where(end, 0, noise)
                eps = xp.where(end, (s - t) * flow, eps)
            case "x_hat":
                noise, eps = (xp.where(end, 0, part) for part in (noise, eps))
                z, x = xp.where(end, 0, z), xp.where(end, alpha, x)
        row = dict(
            t=t,
            z=xp.where(infinite, 0, z),
            x=xp.where(infinite, alpha, x),
            eps=xp.where(infinite, root(sigma**2 - fresh**2), eps),
            noise=xp.where(infinite, fresh, noise),
        )
        return row, infinite

    def _fresh(self, t: Array, s: Array, sigma: Array, schedule: Schedule) -> Array:
        """Computes noise from infinity: `epsilon_t sqrt(t - s)`, at most sigma_s."""
        finite = xp.isfinite(self.diffusion_fn(t, schedule=schedule))
        epsilon = self.diffusion_fn(xp.where(finite, t, (t + s) / 2), schedule=schedule)
        added = xp.minimum(xp.sqrt(t - s) * epsilon, sigma)
        return xp.where(finite, added, sigma)

    def _drift(self, t: Array, schedule: Schedule) -> tuple[Array, Array]:
        """Computes the factors of x_hat and eps_hat."""
        a, b = schedule.derivatives(t)
        epsilon = self.diffusion_fn(t, schedule=schedule)
        some = epsilon > 0
        rate = epsilon**2 / xp.where(some, 2 * schedule.sigma(t), 1)
        return a, b + xp.where(some, rate, 0)

    def init(self, z: Array) -> Array:
        return z

    def output(self, z: Array) -> Array:
        return z


@register
class EulerMaruyama(_Sde):
    """Euler-Maruyama: `z_s = z + (s - t) b(z, t) + epsilon_t sqrt(t - s) xi`.

    The first and the last step are in the module.

    Args:
      diffusion_fn: `(t, *, schedule) -> epsilon`, such as those of
        `samplers.diffusions`; by default `Eta(1.0)`.
      last: the step to sigma = 0, one of `LAST`.

    Raises:
      ValueError: `last` is unknown.
    """

    diffusion_fn: Any = Eta(1.0)
    last: str = static(default="mean")

    def plan(self, t: Array, s: Array, schedule: Schedule) -> Row:
        return self._first_stage(t, s, schedule)[0]

    def step(self, z: Array, row: Row, noise: Array, denoise_fn: DenoiseFn) -> Array:
        denoised = denoise_fn(z, row["t"])
        mean = row["z"] * z + row["x"] * denoised.x + row["eps"] * denoised.eps
        return mean + row["noise"] * noise[0]


@register
class StochasticHeun(_Sde):
    """Stochastic Heun: adds noise, then takes a Heun step of the drift b with it.

        z' = z + epsilon_t sqrt(t - s) xi,    z_e = z' + (s - t) b(z', t),
        z_s = z' + (s - t) (b(z', t) + b(z_e, s)) / 2.

    Without noise its order is 2; with it the law converges with order 1, since
    epsilon is that of t in the whole step. The first and the last step of the module
    have one stage.

    Args:
      diffusion_fn: as in `EulerMaruyama`.
      last: as in `EulerMaruyama`.

    Raises:
      ValueError: `last` is unknown.

    Source: Ma et al. 2024, arXiv 2401.08740, its published code.
    """

    diffusion_fn: Any = Eta(1.0)
    last: str = static(default="mean")

    def plan(self, t: Array, s: Array, schedule: Schedule) -> Row:
        first, infinite = self._first_stage(t, s, schedule)
        second = (schedule.sigma(s) > 0) & ~infinite
        a, b = self._drift(xp.where(second, s, (t + s) / 2), schedule)
        noise = first.pop("noise")
        return dict(
            **first,
            noise_before=xp.where(infinite, 0, noise),
            noise_after=xp.where(infinite, noise, 0),
            s=xp.where(second, s, t),
            x_second=(s - t) * a,
            eps_second=(s - t) * b,
            second=second,
            calls=1 + second.astype(np.int32),
        )

    def step(self, z: Array, row: Row, noise: Array, denoise_fn: DenoiseFn) -> Array:
        z = z + row["noise_before"] * noise[0]
        denoised = denoise_fn(z, row["t"])
        euler = row["z"] * z + row["x"] * denoised.x + row["eps"] * denoised.eps

        def average(euler: Array) -> Array:
            again = denoise_fn(euler, row["s"])
            slope = row["x_second"] * again.x + row["eps_second"] * again.eps
            return (euler + z + slope) / 2

        z = jax.lax.cond(row["second"], average, lambda euler: euler, euler)
        return z + row["noise_after"] * noise[0]
