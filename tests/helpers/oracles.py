"""Exact answers in NumPy float64, written from the formulas and from nothing of ours.

`tests/data/testvectors.json` holds 20-digit values of schedules, weights and mixtures
from an independent evaluation in arbitrary precision; `tests/data/churn.npz`,
`scaling.npz` and `straightness.npz` the figures on churn, on the scaling of a schedule
and on the variance of the data of "Diffusion Meets Flow Matching" (Gao et al. 2024) as
numbers.
"""

import json
import pathlib

import numpy as np

DATA = pathlib.Path(__file__).parents[1] / "data"
VECTORS = json.loads((DATA / "testvectors.json").read_text())


def schedule_rows(name):
    """Columns of a schedule: t, alpha, sigma, logsnr, dlogsnr_dt, f, g2, float64."""
    rows = VECTORS["schedules"][name]
    columns = ("t", "alpha", "sigma", "logsnr", "dlogsnr_dt", "f", "g2")
    return {
        column: np.array([float(row[column]) for row in rows]) for column in columns
    }


def weights(name):
    """`(logsnr, W)` of a recipe, float64 arrays."""
    table = VECTORS["weights"]
    logsnr = np.array([float(key) for key in table])
    return logsnr, np.array([float(row[name]) for row in table.values()])


def gaussian_denoised(z, alpha, sigma, mean, variance):
    """`(E[x | z], E[eps | z])` for x ~ N(mean, variance)."""
    total = alpha**2 * variance + sigma**2
    offset = z - alpha * mean
    return mean + alpha * variance * offset / total, sigma * offset / total


def order(errors, num_steps):
    """Observed order of convergence: least-squares slope of log error on log step."""
    return -np.polyfit(np.log(num_steps), np.log(errors), 1)[0]


def rbf_of_gaussians(offset, v, w, bandwidth):
    """`E exp(-|x - y|^2 / (2 h^2))` of x ~ N(0, v I), y ~ N(offset, w I)."""
    total = bandwidth**2 + v + w
    shrink = (bandwidth**2 / total) ** (len(offset) / 2)
    return shrink * np.exp(-(offset @ offset) / (2 * total))


def exact_mmd(offset, v, w, bandwidth):
    zero = np.zeros_like(offset)
    within = sum(rbf_of_gaussians(zero, s, s, bandwidth) for s in (v, w))
    return within - 2 * rbf_of_gaussians(offset, v, w, bandwidth)


def shares(num_updates, gamma):
    """What each of the updates 1..n has in the average: integrals over [i - 1, i]."""
    edges = (np.arange(num_updates + 1) / num_updates) ** (gamma + 1)
    return np.diff(edges)
