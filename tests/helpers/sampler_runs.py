"""Runs of samplers on data whose flow is known, and their observed order."""

import jax
import numpy as np

from diffusionflow import analytic, grids, samplers
from tests.helpers import oracles
from tests.helpers.all_samplers import levels, steps

MIXTURE = analytic.Mixture(
    np.array([0.3, 0.5, 0.2]), np.array([-2.0, 0.5, 3.0]), np.array([0.04, 0.25, 0.01])
)
NUM_STEPS = (96, 192, 384)
FEW_NUM_STEPS = (12, 24, 48)  # of orders above 4, whose errors are roundings above
# below these the errors of warm-up and method are as large, and may have opposite signs
WARM_UP_NUM_STEPS = (768, 1536, 3072)
VARIANCE = 0.25


def draw(sampler, schedule, times, noise=None):
    z = np.linspace(-2.0, 2.0, 7)
    result = samplers.sample(
        jax.random.key(0),
        MIXTURE.denoise_fn(schedule=schedule),
        z,
        times,
        sampler=sampler,
        schedule=schedule,
        noise=noise,
        trajectory=True,
    )
    return np.asarray(result.trajectory)


def error(sampler, schedule, count, warm):
    """At the end of a log-SNR interval, on N(0, VARIANCE)."""
    denoise_fn = analytic.gaussian(np.zeros(1), VARIANCE).denoise_fn(schedule=schedule)
    with jax.enable_x64(True):
        times = grids.logsnr_uniform(
            count, schedule=schedule, logsnr_min=-4.0, logsnr_max=4.0
        )
        alpha, sigma = levels(schedule, times)
        # the probability-flow ODE keeps z / sqrt(V)
        exact = np.sqrt(alpha**2 * VARIANCE + sigma**2)[:, None, None]
        rows = samplers.plan(sampler, times, schedule=schedule)
        found = steps(sampler, rows, exact[0], denoise_fn, exact=exact, warm=warm)
    return np.abs(found[-1] - exact[-1]).max()


def order(sampler, schedule, warm, num_steps=NUM_STEPS):
    """As observed: the slope of log error on log step."""
    errors = [error(sampler, schedule, count, warm) for count in num_steps]
    return oracles.order(errors, num_steps)
