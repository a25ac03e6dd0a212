"""EDM's sampler with noise, and others that raise the level before a step."""

import re

import numpy as np

from diffusionflow import samplers
from tests.helpers import golden
from tests.helpers.golden_noise import drawn, plan, replay, states
from tests.helpers.golden_samplers import ablation_schedule, said


def churned(case, stages, network=None, second="heun"):
    """EDM's sampler; `network` stands for one that is called before the noise."""
    a, expected = case.a, states(case)
    if "sigma_grid" in a:
        sigma, start = a["sigma_grid"], None
    else:
        sigma, start = np.append(a["sigma_eval"], a["sigma_to"][-1]), expected[0]
    count, schedule = len(sigma) - 1, ablation_schedule(case)
    place = said(case).get("alpha", 1.0) if stages == 2 else 1.0
    sampler = samplers.EDM(
        *churn(case, count), stages, second, schedule.variable, float(place)
    )
    t = np.asarray(schedule.time(sigma))
    if start is None:
        start = a["init_noise"] * np.asarray(schedule.sigma(t[0]))
    rows = plan(sampler, t[:-1], t[1:], schedule)
    raised = np.asarray(schedule.level(schedule.top * rows.get("euler", rows)["t"]))
    if "sigma_hat" in a:
        np.testing.assert_allclose(raised, a["sigma_hat"], rtol=1e-12)
    noise, denoised = drawn(case, count), None
    if network is not None:
        calls = iter(zip(sigma[:-1], raised, strict=True))
        denoised = lambda before, z, t: network(case, before, z, *next(calls))
    found = replay(case, sampler, rows, schedule, start, noise, denoised)
    if "callback_x" in a:  # records begin after the noise
        after = rows["raise_z"][:, None, None] * found[:-1]
        after = after + rows["raise_noise"][:, None, None] * noise
        found = np.concatenate([after, found[-1:]])
    return found, expected


def churn(case, count):
    """Its amount, the levels between which it acts, and the factor of the noise.

    diffusers divides the amount by the number of its intervals, one of which a grid
    that is linear in log sigma leaves out.
    """
    settings = said(case)
    names = ("s_churn", "s_tmin", "s_tmax", "s_noise")
    if case.of("edm"):
        names = ("S_churn", "S_min", "S_max", "S_noise")
    defaults = (0.0, 0.0, np.inf, 1.0)
    found = [float(settings.get(*each)) for each in zip(names, defaults, strict=True)]
    spaced = [name for name in settings if re.fullmatch("use_.*_sigmas", name)]
    if settings.get("interpolation_type") == "log_linear" and not any(
        settings[name] for name in spaced
    ):
        found[0] *= count / (count + 1)
    return found


def edm_network(case, before, z, level, raised):
    """An EDM network, whose raw output at (before, level) is used at (z, raised)."""
    std2 = said(case)["sigma_data"] ** 2
    skip = lambda sigma: std2 / (sigma**2 + std2)
    out = lambda sigma: sigma / np.sqrt(sigma**2 + std2)
    x, _ = golden.Mixture(case.meta["mixture"]).denoised(before, 1.0, level)
    x = skip(raised) * z + out(raised) * (x - skip(level) * before) / out(level)
    return x, (z - x) / raised


def euler_network(case, before, z, level, raised):
    """A network of eps, x or v; v becomes x with the level before the noise."""
    x, eps = golden.Mixture(case.meta["mixture"]).denoised(before, 1.0, level)
    of_kind = {
        "epsilon": lambda: z - raised * eps,
        "sample": lambda: x,
        "v_prediction": lambda: x + (z - before) / (level**2 + 1),
    }
    x = case.choose("prediction_type", of_kind, "epsilon")()
    return x, (z - x) / raised


def edm(case):
    return churned(case, case.choose("solver", {"euler": 1, "heun": 2}, "heun"))
