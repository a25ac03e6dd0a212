"""Every kind of prediction from its definition, in NumPy float64."""

import jax
import numpy as np

from diffusionflow import predictions, schedules

SCHEDULES = (
    schedules.FlowMatching(),
    schedules.Cosine(),
    schedules.Cosine(-15.0, 15.0),
    schedules.LinearBeta(),
)
KINDS = (*predictions.NAMES, predictions.edm_f(sigma_data=0.5))


def exact(kind, x, eps, alpha, sigma, dalpha, dsigma):
    """Every kind from its definition, float64."""
    root = np.sqrt(sigma**2 + 0.25 * alpha**2)
    forms = {
        "x": lambda: x,
        "eps": lambda: eps,
        "v": lambda: alpha * eps - sigma * x,
        "u": lambda: eps - x,
        "dz_dt": lambda: dalpha * x + dsigma * eps,
        "score": lambda: -eps / sigma,
        "edm_f(sigma_data=0.5)": lambda: (sigma * x / 0.5 - 0.5 * alpha * eps) / root,
    }
    return forms[str(kind)]()


def case(schedule, t, shape=(4, 2, 3), seed=0):
    """x, eps, z and the levels in float64, at times t of shape [batch]."""
    generator = np.random.default_rng(seed)
    x, eps = generator.normal(size=(2, *shape))
    with jax.enable_x64(True):
        levels = [
            np.asarray(value).reshape(-1, 1, 1)
            for value in (
                schedule.alpha(t),
                schedule.sigma(t),
                *schedule.derivatives(t),
            )
        ]
    return x, eps, levels[0] * x + levels[1] * eps, levels
