"""The order of every deterministic sampler, on data whose flow is known."""

import jax
import numpy as np

from diffusionflow import analytic, grids, samplers
from tests import oracles
from tests.all_samplers import DETERMINISTIC, SCHEDULES, levels, pairs, steps

NUM_STEPS = (96, 192, 384)
# below these the errors of warm-up and method are as large, and may have opposite signs
WARM_UP_NUM_STEPS = (768, 1536, 3072)
VARIANCE = 0.25


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


@pairs(DETERMINISTIC)
def test_order_of_convergence(on, name):
    """From exact starting values, and as shipped."""
    entry, schedule = DETERMINISTIC[name], SCHEDULES[on]
    warm = 0 if entry.shipped is None else 3
    assert order(entry.sampler, schedule, warm) >= entry.order - 0.15
    if entry.shipped is not None:
        shipped = order(entry.sampler, schedule, 0, WARM_UP_NUM_STEPS)
        assert shipped >= entry.shipped - 0.15


def main():
    """Prints the orders as rows of a table: the least over the schedules."""
    for name, entry in DETERMINISTIC.items():
        cells = [f"`{entry.sampler}`", str(entry.order)]
        warm = 0 if entry.shipped is None else 3
        least = lambda *args, entry=entry: min(
            order(entry.sampler, schedule, *args) for schedule in SCHEDULES.values()
        )
        cells.append(f"{least(warm):.2f}")
        cells.append(
            "the same"
            if entry.shipped is None
            else f"{least(0, WARM_UP_NUM_STEPS):.2f}"
        )
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
