"""Runs of our samplers over recorded levels, in float64 and NumPy's networks."""

import jax
import numpy as np

from diffusionflow._dataclass import register
from diffusionflow.predictions import Denoised
from tests.helpers import golden


@register
class Levels:
    """Recorded levels at t = 1, 1 - 1/n, ..., 0; log-linear between them."""

    alphas: np.ndarray
    sigmas: np.ndarray

    def alpha(self, t):
        return self._at(self.alphas, t)

    def sigma(self, t):
        return self._at(self.sigmas, t)

    def logsnr(self, t):
        with np.errstate(divide="ignore"):
            return 2 * np.log(self.alpha(t) / self.sigma(t))

    def inverse_logsnr(self, logsnr):
        with np.errstate(divide="ignore"):
            known = 2 * np.log(self.alphas / self.sigmas)
        place = np.interp(logsnr, known, np.arange(len(known)))
        return 1 - place / (len(known) - 1)

    def _at(self, table, t):
        place = (1 - np.asarray(t)) * (len(table) - 1)
        below = np.clip(np.floor(place + 1e-9).astype(int), 0, len(table) - 2)
        part = place - below
        part = np.where(np.abs(part - np.round(part)) < 1e-9, np.round(part), part)
        with np.errstate(divide="ignore", invalid="ignore"):
            log = np.log(table)
            between = np.exp((1 - part) * log[below] + part * log[below + 1])
        value = np.where(part == 1, table[below + 1], between)
        return np.where(part == 0, table[below], value)


def times(levels):
    return 1 - np.arange(len(levels)) / (len(levels) - 1)


def run(case, sampler, z, grid, schedule, change=lambda rows: None):
    """States at the times of `grid`, `[len(grid), *z.shape]`."""
    mixture = golden.Mixture(case.meta["mixture"])

    def denoise_fn(z, t):
        level = (np.asarray(schedule.alpha(t)), np.asarray(schedule.sigma(t)))
        return Denoised(*mixture.denoised(z, *level))

    with jax.enable_x64(True):
        grid = np.asarray(grid, np.float64)
        rows = sampler.plan(grid[:-1], grid[1:], schedule)
        rows = jax.tree.map(np.asarray, rows)
    with jax.enable_x64(True), jax.disable_jit():
        change(rows)
        state, found = sampler.init(z), [z]
        for i in range(len(grid) - 1):
            row = jax.tree.map(lambda column, i=i: column[i], rows)
            state = sampler.step(state, row, np.zeros((1, *z.shape)), denoise_fn)
            found.append(np.asarray(sampler.output(state)))
    return np.stack(found)


def on_levels(case, sampler, alpha, sigma, states, tolerance=1e-9, **kwargs):
    schedule = Levels(np.asarray(alpha), np.asarray(sigma))
    found = run(case, sampler, states[0], times(alpha), schedule, **kwargs)
    np.testing.assert_allclose(found, states, rtol=tolerance, atol=tolerance)


def close(found, recorded, tolerance=1e-9):
    np.testing.assert_allclose(found, recorded, rtol=tolerance, atol=tolerance)
