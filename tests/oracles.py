"""Exact answers in NumPy float64, written from the formulas and from nothing of ours.

`tests/data/testvectors.json` holds 20-digit values of schedules, weights and mixtures
from an independent evaluation in arbitrary precision; `tests/data/churn.npz` and
`tests/data/scaling.npz` the figures on churn and on the scaling of a schedule of
"Diffusion Meets Flow Matching" (Gao et al. 2024) as numbers.
"""

import json
import pathlib

import numpy as np

DATA = pathlib.Path(__file__).parent / "data"
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


def churn_law(levels, churn, variance):
    """Variance after each step of the churn family on N(0, variance) data.

    `levels` is `(alpha, sigma)`, float64 `[num_steps + 1]` each. Exact: the denoiser is
    linear, so each step multiplies the variance and adds that of its noise.
    """
    alpha, sigma = levels
    law = [float(sigma[0] ** 2)]
    for i in range(len(alpha) - 1):
        total = alpha[i] ** 2 * variance + sigma[i] ** 2
        ratio = (alpha[i] * sigma[i + 1]) / (alpha[i + 1] * sigma[i])
        kept = ratio ** (churn / (1 - churn))
        factor = alpha[i + 1] * alpha[i] * variance + sigma[i + 1] * kept * sigma[i]
        fresh = sigma[i + 1] ** 2 * (1 - kept**2)
        law.append(law[-1] * (factor / total) ** 2 + fresh)
    return np.array(law)


def order(errors, num_steps):
    """Observed order of convergence: least-squares slope of log error on log step."""
    return -np.polyfit(np.log(num_steps), np.log(errors), 1)[0]
