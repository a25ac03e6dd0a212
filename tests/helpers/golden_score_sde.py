"""Predictor-corrector runs of score_sde.

Its network is a score at the continuous time. Euler-Maruyama advances by 1/N, whatever
the grid. The other predictors step between neighbouring levels of a discrete table, at
the index of the time cut to an integer, with that score.
"""

import numpy as np

from diffusionflow import samplers
from diffusionflow.samplers import diffusions
from tests.helpers import golden, golden_schedules
from tests.helpers.golden_noise import Table, in_time, replay
from tests.helpers.golden_samplers import said

_CORRECTORS = {"none": None, "langevin": "batch", "ald": "expected"}


def score_sde(case):
    """`(our states, recorded states)`; the first state is not recorded."""
    a, settings = case.a, said(case)
    count, eta = settings["N"], 0.0 if settings["probability_flow"] else 1.0
    schedule = golden_schedules.of(case)
    np.testing.assert_allclose(schedule.sigma(a["t"]), a["sigma"], rtol=1e-9)
    start = a["init_noise"] * case.config.get("init_scale", 1.0)
    expected = np.concatenate([start[None], a["states"]])
    kinds = {
        "euler_maruyama": samplers.EulerMaruyama(diffusions.Eta(eta)),
        "reverse_diffusion": samplers.ReverseDiffusion(eta),
        "ancestral_sampling": samplers.ddpm(
            case.choose("sde", {"vp": "forward", "ve": "posterior", "subvp": ""})
            or "forward"
        ),
    }
    predictor = case.choose("predictor", kinds)
    in_steps = isinstance(predictor, samplers.EulerMaruyama)
    if settings["sde"] == "subvp" and settings["predictor"] == "reverse_diffusion":
        # its discretisation is Euler and Maruyama's there
        predictor, in_steps = samplers.EulerMaruyama(diffusions.Eta(eta)), True
    if in_steps:
        sampler = corrected(case, predictor, np.ones(count))
        noise = drawn(case, sampler)
        return in_time(case, sampler, a["t"], a["t"] - 1 / count, expected, noise=noise)
    return on_table(case, predictor, eta, expected)


def corrected(case, predictor, level):
    """With the Langevin steps of its corrector; `level` is ours over theirs."""
    settings = said(case)
    norms = case.choose("corrector", _CORRECTORS, "none")
    if norms is None:
        return predictor
    snr = settings["snr"] * factor(case) / (level if norms == "expected" else 1.0)
    return samplers.Langevin(predictor, snr, settings["n_corrector_steps"], norms)


def factor(case):
    """What theirs multiplies snr with: sqrt(1 - beta) of a discrete VP, 1 for VE."""
    if case.choose("sde", {"vp": False, "ve": True}):
        return np.ones(case.config["N"])
    return np.sqrt(1 - betas(case)[index(case)])


def betas(case):
    count = case.config["N"]
    return np.linspace(0.1, 20.0, count) / count


def index(case):
    return (case.a["t"] * (case.config["N"] - 1)).astype(int)


def table(case):
    """The N levels and, before them, the data."""
    if case.choose("sde", {"vp": False, "ve": True}):
        schedule, count = golden_schedules.of(case), case.config["N"]
        ends = [np.log(float(schedule.sigma(t))) for t in (0.0, 1.0)]
        sigma = np.append(0.0, np.exp(np.linspace(*ends, count)))
        return Table(np.ones_like(sigma), sigma)
    kept = np.append(1.0, np.cumprod(1 - betas(case)))
    return Table(np.sqrt(kept), np.sqrt(1 - kept))


def on_table(case, predictor, eta, expected):
    a, schedule, places = case.a, table(case), index(case)
    t, s = places + 1.0, places * 1.0
    level = schedule.sigma(t) / a["sigma"]
    sampler = corrected(case, predictor, level)
    rows = sampler.plan(t, s, schedule)
    row = rows.get("predictor", rows)
    if not isinstance(predictor, samplers.Churn):
        # theirs adds the noise of a step forward to the data too
        row["noise"] = np.where(s == 0, eta * schedule.sigma(t), row["noise"])
    mixture = golden.Mixture(case.meta["mixture"])
    calls = 1 + getattr(sampler, "steps", 0)
    numbers = iter(np.repeat(np.arange(len(t)), calls))

    def denoised(before, z, t):
        i = next(numbers)
        _, eps = mixture.denoised(np.asarray(z), a["alpha"][i], a["sigma"][i])
        eps = eps * level[i]  # their score, with the level of the table
        return (z - schedule.sigma(t) * eps) / schedule.alpha(t), eps

    noise = drawn(case, sampler)
    return replay(case, sampler, rows, schedule, expected[0], noise, denoised), expected


def drawn(case, sampler):
    """Recorded noise, the corrector's before the predictor's; 0 where there is none."""
    shape = (case.config["N"], sampler.num_noises, *case.a["init_noise"].shape)
    return case.a.get("noise", np.zeros(shape)).reshape(shape)
