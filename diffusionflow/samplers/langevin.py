"""Predictor-corrector sampling: Langevin steps before those of a sampler."""

from typing import Any

import jax
import numpy as np
from jax import Array

from diffusionflow import _xp as xp
from diffusionflow._dataclass import (
    check_count,
    check_name,
    check_positive,
    is_traced,
    register,
    static,
)
from diffusionflow._numeric import root
from diffusionflow.predictions import DenoiseFn
from diffusionflow.samplers.churn import ddpm
from diffusionflow.schedules import Schedule

MOST = 1_000  # steps of the corrector, each a part of the program


@register
class Langevin:
    """Predictor-corrector sampler: at each time Langevin steps, then a step of another.

    A step of the corrector at time t, with `delta = 2 (snr r sigma_t)^2`, is

        z <- z + delta score + sqrt(2 delta) xi,    score = -eps_hat / sigma_t.

    r is the ratio of the norms of noise and score:

    - "expected": 1, the ratio of their expected values,
    - "example": `|xi| / |eps_hat|` of each example, where eps_hat is not 0,
    - "batch": the same of both norms' means over the batch. A sample then depends on
      the others in its batch.

    It leaves the law of z_t as it is for a small snr alone: the law of the samples does
    not converge to that of the data with the number of steps.

    Args:
      sampler: the predictor, one whose state is z; one of your own with more than one
        evaluation a step counts them in a column `calls` of its plan.
      snr: signal-to-noise ratio of a step, positive; scalar or `[num_steps]`.
      steps: of the corrector at each time, at least 1.
      norms: see above.
      batch_ndim: number of leading batch axes, for the norms of an example.

    Raises:
      ValueError: a value is out of bounds or unknown; in `run`: the predictor is a
        multi-step method, which would remember predictions from before the corrector.

    Source: Song et al. 2020, arXiv 2011.13456, algorithms 2 to 5. "expected" is the
    corrector "ald" of its code, "batch" is "langevin". There, for VP, delta has a
    factor `1 - beta_i` too: `snr sqrt(1 - beta)`.
    """

    sampler: Any = ddpm()
    snr: float | Array = 0.16
    steps: int = static(default=1)
    norms: str = static(default="expected")
    batch_ndim: int = static(default=1)

    def __post_init__(self) -> None:
        check_positive("snr", self.snr)
        check_count("steps", self.steps, most=MOST)
        check_name("norms", self.norms, ("expected", "example", "batch"))
        check_count("batch_ndim", self.batch_ndim, 0)

    @property
    def num_noises(self) -> int:
        return self.steps + self.sampler.num_noises

    def plan(self, t: Array, s: Array, schedule: Schedule) -> dict[str, Any]:
        sigma = schedule.sigma(t)
        snr = xp.asarray(self.snr, sigma.dtype)
        if snr.shape not in ((), sigma.shape):
            raise ValueError(
                f"snr of shape {snr.shape}: must be a scalar or {sigma.shape}, one "
                "number for each step"
            )
        if not is_traced(snr) and not ((snr > 0) & (snr < np.inf)).all():
            raise ValueError(f"snr={self.snr}: each must be positive and finite")
        snr = snr + xp.zeros_like(sigma)
        rows = self.sampler.plan(t, s, schedule)
        if jax.tree.leaves(rows)[0].shape[0] != t.shape[0]:
            raise ValueError(
                f"sampler={self.sampler}: must have one row a step, such as "
                "samplers.ddpm() or samplers.EulerMaruyama()"
            )
        count = rows.get("calls", 1) if isinstance(rows, dict) else 1
        return dict(
            t=t,
            eps=-2 * snr**2 * sigma,
            noise=2 * snr * sigma,
            predictor=rows,
            calls=self.steps + count * np.ones(t.shape, np.int32),
        )

    def init(self, z: Array) -> Array:
        state = self.sampler.init(z)
        if isinstance(state, tuple):
            raise ValueError(
                f"sampler={self.sampler}: must remember nothing between steps, such as "
                "samplers.ddpm() or samplers.EulerMaruyama()"
            )
        return state

    def step(self, z: Array, row: dict, noise: Array, denoise_fn: DenoiseFn) -> Array:
        for xi in noise[: self.steps]:
            eps = denoise_fn(z, row["t"]).eps
            r = self._ratio(xi, eps)
            z = z + row["eps"] * r**2 * eps + row["noise"] * r * xi
        rest = noise[self.steps :]
        return self.sampler.step(z, row["predictor"], rest, denoise_fn)

    def _ratio(self, xi: Array, eps: Array) -> Array:
        """Computes r, broadcast against an example."""
        if self.norms == "expected":
            return xp.ones_like(eps.sum())
        axes = tuple(range(self.batch_ndim, eps.ndim))
        above, below = (
            root(xp.sum(values**2, axis=axes, keepdims=True)) for values in (xi, eps)
        )
        if self.norms == "batch":
            above, below = above.mean(), below.mean()
        some = below > 0
        return xp.where(some, above / xp.where(some, below, 1), 1)

    def output(self, z: Array) -> Array:
        return z
