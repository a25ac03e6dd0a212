"""Densities of training times, each on a schedule, with its cdf where it has one."""

import numpy as np
from scipy import stats

from diffusionflow import schedules, times

FLOW = schedules.FlowMatching()
CUT = schedules.Cosine(logsnr_min=-5.0, logsnr_max=7.0)
LEARNED = times.LossMoments(
    count=np.array([3.0, 0.0, 5.0, 2.0], np.float32),
    square=np.array([12.0, 0.0, 1.0, 5.0], np.float32),
)
# name: (density, schedule, exact cdf or None)
normal = stats.norm(-1.2, 1.2)
CASES = {
    "uniform": (times.Uniform(), FLOW, lambda t: t),
    "uniform part": (
        times.Uniform(0.2, 0.7),
        FLOW,
        lambda t: np.clip((t - 0.2) / 0.5, 0, 1),
    ),
    "logit-normal": (
        times.LogitNormal(-0.4, 1.1),
        FLOW,
        lambda t: stats.norm(-0.4, 1.1).cdf(np.log(t / (1 - t))),
    ),
    "mode": (times.Mode(1.29), FLOW, None),
    "mode at its ends": (times.Mode(-0.9), FLOW, None),
    "cosmap": (
        times.CosMap(),
        FLOW,
        lambda t: 2 / np.pi * np.arctan(t / (1 - t)),
    ),
    "sigma on flow matching": (
        times.LogNormalSigma(),
        FLOW,
        lambda t: normal.cdf(np.log(t / (1 - t))),
    ),
    "sigma on a finite schedule": (
        times.LogNormalSigma(),
        CUT,
        lambda t: (
            (normal.cdf(log_ratio(t)) - normal.cdf(-3.5))
            / (normal.cdf(2.5) - normal.cdf(-3.5))
        ),
    ),
    "uniform log-SNR": (
        times.UniformLogSNR(-4.0, 3.0),
        schedules.LinearBeta(),
        lambda t: np.clip((3 + np.log(np.expm1(0.1 * t + 9.95 * t**2))) / 7, 0, 1),
    ),
    "uniform on cosine": (
        times.UniformOn(schedules.Cosine()),
        FLOW,
        lambda t: 2 / np.pi * np.arctan(t / (1 - t)),
    ),
    "uniform on flow, finite": (
        times.UniformOn(FLOW),
        CUT,
        lambda t: (
            (sigmoid(log_ratio(t)) - sigmoid(-3.5)) / (sigmoid(2.5) - sigmoid(-3.5))
        ),
    ),
    "uniform on beta, finite": (  # which does not reach all of flow matching
        times.UniformOn(schedules.LinearBeta()),
        FLOW,
        lambda t: np.minimum(beta_time(np.log1p((t / (1 - t)) ** 2)), 1),
    ),
    "truncated": (
        times.Truncated(times.CosMap(), 0.1, 0.6),
        FLOW,
        lambda t: np.clip(
            (np.arctan(t / (1 - t)) - np.arctan(1 / 9))
            / (np.arctan(1.5) - np.arctan(1 / 9)),
            0,
            1,
        ),
    ),
    "truncated log-SNR": (
        times.Truncated(times.Uniform(), logsnr_min=-2.0, logsnr_max=4.0),
        FLOW,
        lambda t: np.clip((t - sigmoid(-2)) / (sigmoid(1) - sigmoid(-2)), 0, 1),
    ),
    "adaptive, new": (times.AdaptiveTimes(times.LogitNormal()), FLOW, None),
    "adaptive": (
        times.AdaptiveTimes(times.Uniform(), -4.0, 4.0, 4, moments=LEARNED),
        FLOW,
        None,
    ),
    "adaptive, finite": (
        times.AdaptiveTimes(times.Uniform(), -9.0, 9.0, 4, moments=LEARNED),
        CUT,
        None,
    ),
}


def beta_time(integral):
    """The time of `LinearBeta()` and `SubVP()` at which the rate has an integral."""
    return 2 * integral / (0.1 + np.sqrt(0.01 + 2 * 19.9 * integral))


def log_ratio(t):
    """log(sigma / alpha) of `CUT`."""
    first, last = np.arctan(np.exp(-3.5)), np.arctan(np.exp(2.5))
    return np.log(np.tan(first + (last - first) * t))


def sigmoid(x):
    return 1 / (1 + np.exp(-x))
