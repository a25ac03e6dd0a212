"""Replays of recorded runs with their noise, step by step and in NumPy.

Levels of a record stand at integer times of a `Table`; where its clock matters, one of
our schedules is used.
"""

import jax
import jax.numpy as jnp
import numpy as np

from diffusionflow import samplers
from diffusionflow.predictions import Denoised
from tests.helpers import golden, golden_schedules
from tests.helpers.golden_samplers import said

LEVELS = ("alpha", "sigma")


class Table:
    """Levels at times 0, 1, 2, ..."""

    def __init__(self, alpha, sigma):
        self.levels = np.array(alpha, float), np.array(sigma, float)

    def alpha(self, t):
        return self.levels[0][np.asarray(t).astype(int)] + 0 * t

    def sigma(self, t):
        return self.levels[1][np.asarray(t).astype(int)] + 0 * t


class Sigma:
    """alpha = 1 and sigma = `top` t, for levels that are all below top / 2."""

    def __init__(self, sigma):
        self.top = 2.0 ** np.ceil(np.log2(sigma.max()) + 1)

    def alpha(self, t):
        return 0 * t + 1

    def sigma(self, t):
        return self.top * t

    def logsnr(self, t):
        return -2 * jnp.log(self.top * t)

    def inverse_logsnr(self, logsnr):
        return jnp.exp(-logsnr / 2) / self.top


ON_THE_HOST = (
    samplers.SASolver,
    samplers.Langevin,
    samplers.SDEDPMSolverSinglestep,
)


def plan(sampler, t, s, schedule):
    """The last step is repeated, so that all plans have one length to compile.

    Of samplers for which the number of steps matters the plan is NumPy's.
    """
    if isinstance(sampler, ON_THE_HOST):
        return sampler.plan(t, s, schedule)
    missing = 0 if isinstance(sampler, samplers.EDM) else 64 - len(t)
    long = [jnp.asarray(np.append(times, [times[-1]] * missing)) for times in (t, s)]
    rows = sampler.plan(*long, schedule)
    return jax.tree.map(lambda column: np.array(column)[: len(t)], rows)


def replay(case, sampler, rows, schedule, z, noise, denoised=None):
    """All states, from `z`; `denoised(before, z, t)` stands for the network."""
    mixture = golden.Mixture(case.meta["mixture"])
    levels = lambda t: (
        float(schedule.alpha(np.float64(t))),
        float(schedule.sigma(np.float64(t))),
    )
    exact = lambda before, z, t: mixture.denoised(np.asarray(z), *levels(t))
    denoised = denoised or exact
    state, found = sampler.init(z), [z]
    for i in range(len(jax.tree.leaves(rows)[0])):
        row = jax.tree.map(lambda column, i=i: column[i], rows)
        fn = lambda z, t, before=found[-1]: Denoised(*denoised(before, z, t))
        draws = np.reshape(noise[i], (-1, *z.shape))
        state = sampler.step(state, row, draws, fn)
        found.append(np.asarray(sampler.output(state)))
    return np.stack(found)


def drawn(case, count):
    """The recorded noise of each step, zero where none was drawn."""
    values = np.zeros((count, *case.a["init_noise"].shape))
    number = case.a.get("noise_step", np.arange(len(case.a.get("noise", ()))))
    if len(number):
        values[number] = case.a["noise"]
    return values


def states(case):
    """The recorded states that are completed steps."""
    found = case.a["callback_x" if "callback_x" in case.a else "states"]
    if "callback_x" in case.a:
        return np.concatenate([found, case.a["final"][None]])
    return found


def by_levels(case, sampler):
    """Steps between recorded levels, and their rows."""
    a = case.a
    if "alpha_eval" in a:
        levels = [np.concatenate([a[f"{n}_eval"], a[f"{n}_to"]]) for n in LEVELS]
        count = len(a["alpha_eval"])
        t, s = np.arange(count), count + np.arange(count)
    else:
        sigma = a["sigma_grid"] if "sigma_grid" in a else a["sigma"]
        levels = a.get("alpha", np.ones_like(sigma)), sigma
        t, s = np.arange(len(sigma) - 1), np.arange(1, len(sigma))
    schedule = Table(*levels)
    t, s = t.astype(float), s.astype(float)
    return schedule, plan(sampler, t, s, schedule), (t, s)


def one_step(case, sampler, last_noise=True):
    schedule, rows, _ = by_levels(case, sampler)
    noise = drawn(case, len(jax.tree.leaves(rows)[0])) * said(case).get("s_noise", 1.0)
    if not last_noise:
        noise[-1] = 0
    found = replay(case, sampler, rows, schedule, states(case)[0], noise)
    return found, states(case)


def in_time(case, sampler, t, s, expected, last_noise=True, noise=None):
    """Steps in the time of the record's schedule."""
    schedule = golden_schedules.of(case)
    noise = drawn(case, len(t)) if noise is None else noise
    if not last_noise:
        noise[-1] = 0
    rows = plan(sampler, t, s, schedule)
    return replay(case, sampler, rows, schedule, expected[0], noise), expected
