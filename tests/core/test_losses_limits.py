"""Weighted errors at both ends of time: `losses/limits.py`."""

import functools

import jax
import numpy as np
import pytest

from diffusionflow import (
    losses,
    objectives,
    predictions,
    schedules,
    times,
    weightings,
)
from tests.helpers.kinds import KINDS
from tests.helpers.loss_cases import FLOW

WEIGHTINGS = {
    **{kind: weightings.Mse(kind) for kind in predictions.NAMES},
    "edm_f": weightings.Mse(predictions.edm_f(0.5)),
    "min_snr": weightings.MinSNR(5.0),
    "soft_min_snr": weightings.SoftMinSNR(4.0),
    "truncated_snr": weightings.TruncatedSNR(),
    "p2": weightings.P2(2.0, 1.0),
    "p2_half": weightings.P2(2.0, 0.5),
    "p2_twice": weightings.P2(2.0, 2.0),
    "edm": weightings.EDM(0.5),
}


def implied(kind, p, alpha, sigma, dalpha, dsigma):
    """`(x_hat, eps_hat)` of a prediction p at an end, from the end's definition.

    Where the kind does not say what is asked, None.
    """
    x, eps = 0.8, -1.5
    with np.errstate(divide="ignore", invalid="ignore"):
        match str(kind):
            case "score":
                kind, p = "eps", -sigma * p
            case "dz_dt" if np.isinf(dsigma):
                kind, p = "eps", 0.0
            case "dz_dt":
                kind, p = "mixed", p
        a, b = {
            "x": (1, 0),
            "eps": (0, 1),
            "v": (-sigma, alpha),
            "u": (-1, 1),
            "mixed": (dalpha, dsigma),
            "edm_f(sigma_data=0.5)": (
                sigma / (0.5 * np.hypot(sigma, alpha / 2)),
                -0.5 * alpha / np.hypot(sigma, alpha / 2),
            ),
        }[str(kind)]
    if sigma == 0:  # x_hat = z / alpha = x
        return x, None if b == 0 else (p - a * x) / b
    return None if a == 0 else (p - b * eps) / a, eps


ENDED = (FLOW, schedules.LinearBeta())


@functools.cache
def ends_of(name, place):
    """The losses of a network of one constant value, and their slopes in it."""
    kind = next(kind for kind in KINDS if str(kind) == name)

    def loss(weighting, p, t):
        return losses.objective_loss(
            None,
            lambda z, t: p + 0 * z,
            np.full((1, 2), 0.8, np.float32),
            objective=objectives.Objective(
                ENDED[place], kind, weighting, times.Uniform()
            ),
            t=t,
            eps=np.full((1, 2), -1.5, np.float32),
        )[0]

    def both(p, t):
        pairs = {
            name: jax.value_and_grad(functools.partial(loss, weighting))(p, t)
            for name, weighting in WEIGHTINGS.items()
        }
        return tuple({name: pair[i] for name, pair in pairs.items()} for i in (0, 1))

    return jax.jit(both)


@pytest.mark.ci
@pytest.mark.parametrize("end", [0.0, 1.0])
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_the_weighted_error_at_the_ends_is_its_limit(kind, end):
    """Every kind of network with every weighting, where the exact value is finite."""
    x, eps, p = 0.8, -1.5, 0.3
    for place, schedule in enumerate(ENDED):
        with jax.enable_x64(True):
            levels = schedule.alpha(end), schedule.sigma(end)
            levels += schedule.derivatives(end)
        alpha, sigma, dalpha, dsigma = map(float, levels)
        if alpha * sigma or (place and str(kind) not in ("dz_dt", "score")):
            continue
        x_hat, eps_hat = implied(kind, p, alpha, sigma, dalpha, dsigma)
        x2 = np.inf if x_hat is None else (x_hat - x) ** 2
        eps2 = np.inf if eps_hat is None else (eps_hat - eps) ** 2
        norm2 = np.hypot(sigma, alpha / 2) ** 2
        if end == 0:  # the error of x is (sigma / alpha)^2 that of eps
            exact = {
                "x": 0,
                "eps": eps2,
                "v": eps2 * alpha**2,
                "u": eps2,
                "edm_f": eps2 * alpha**2 / (4 * norm2),
                "min_snr": 0,
                "soft_min_snr": 0,
                "truncated_snr": eps2,
                "p2": 0,
                "p2_half": 0,
                "p2_twice": 0,
                "edm": eps2,
            }
            if str(kind) == "x":  # and that of eps (alpha / sigma)^2 that of x
                error = (p - x) ** 2
                exact = {
                    "x": error,
                    "min_snr": 5 * error,
                    "soft_min_snr": 4 * error,
                    "p2": error,
                    "p2_half": np.inf,
                    "p2_twice": 0,
                }
            if np.isfinite(dsigma):
                exact["dz_dt"] = eps2 * dsigma**2
        else:
            exact = {
                "x": x2,
                "eps": 0,
                "v": x2,
                "u": x2,
                "score": 0,
                "dz_dt": x2 * dalpha**2,
                "edm_f": x2 * 4,
                "min_snr": 0,
                "soft_min_snr": 0,
                "truncated_snr": x2,
                "p2": 0,
                "p2_half": 0,
                "p2_twice": 0,
                "edm": x2 * 4,
            }
            if str(kind) in ("eps", "score"):
                error = (p * (-1 if str(kind) == "score" else 1) - eps) ** 2
                exact = {
                    "eps": error,
                    "score": error,
                    "min_snr": error,
                    "soft_min_snr": error,
                    "p2": error / 2,
                    "p2_half": error / 2**0.5,
                    "p2_twice": error / 4,
                }
        found, slopes = ends_of(str(kind), place)(p, np.full(1, end, np.float32))
        for name, expected in exact.items():
            if not np.isfinite(expected) and name != "p2_half":
                continue
            words = f"{name} of {kind} on {schedule}"
            np.testing.assert_allclose(found[name], expected, 2e-6, 1e-6, err_msg=words)
            if np.isfinite(expected):
                assert np.isfinite(slopes[name]), words
