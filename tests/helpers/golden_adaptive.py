"""Recorded runs of solvers with steps of adaptive length."""

import jax
import jax.numpy as jnp
import numpy as np

from diffusionflow import analytic, samplers, schedules
from tests.helpers import golden, golden_schedules
from tests.helpers.golden_runs import close
from tests.helpers.golden_samplers import said


def dpm(case):
    """k-diffusion: the error is that of the whole batch."""
    settings = said(case)
    ends = settings["sigma_min"], settings["sigma_max"]
    dpm_solver(case, schedules.VE(*ends), 0.0, ends[1], settings["nfe"])


def official_dpm(case):
    """The authors' code: the error is the largest of the batch."""
    dpm_solver(
        case,
        golden_schedules.of(case),
        case.config["t_end"],
        1.0,
        len(case.a["eval_t"]),
        variable=case.choose("algorithm", {"dpmsolver": "eps", "dpmsolver++": "x"}),
        control=samplers.Proportional(close=1e-5),
        largest_over=1,
    )


def dpm_solver(case, schedule, end, scale, nfe, **kwargs):
    """The whole batch shares its steps: the same attempts, and the same result."""
    settings, a = said(case), case.a
    with jax.enable_x64(True):
        solve = lambda z: samplers.solve_dpm(
            denoiser(case, schedule),
            z,
            1.0,
            end,
            schedule=schedule,
            order=settings["order"],
            rtol=settings.get("rtol", 0.05),
            atol=settings.get("atol", 0.0078),
            batch_ndim=0,
            **kwargs,
        )
        found = jax.jit(solve)(a["init_noise"] * scale)
    assert int(found.nfe) == nfe == settings["order"] * int(found.steps)
    close(found.x, a["final"])


def denoiser(case, schedule):
    data = golden.Mixture(case.meta["mixture"])
    mixture = analytic.Mixture(data.weights, data.means, data.stds**2)
    return mixture.denoise_fn(schedule=schedule)


def ode(case):
    """Solvers of the probability flow: the same flow, to their tolerance."""
    a, settings = case.a, said(case)
    if "t" in a:  # their time is ours reversed
        t, states = 1 - a["t"], a["states"]
    else:
        start = a["init_noise"] * settings.get("init_scale", 1.0)
        t, states = np.array([1.0, settings["eps"]]), np.stack([start, a["final"]])
    with jax.enable_x64(True):
        schedule = golden_schedules.of(case)
        denoise_fn = denoiser(case, schedule)
        solve = jax.jit(
            lambda z, t0, t1: (
                samplers.solve(
                    denoise_fn,
                    z,
                    t0,
                    t1,
                    schedule=schedule,
                    rtol=1e-10,
                    atol=1e-10,
                    max_steps=20_000,
                ).x
            )
        )
        found = [solve(jnp.asarray(states[0]), t[0], t1) for t1 in t[1:]]
    tolerance = FACTOR * max(settings["rtol"], settings["atol"])
    expected = states[1:]
    if "reversed_states" in a:
        with jax.enable_x64(True):
            # back from their first time, turned round, to their last
            back = solve(jnp.asarray(states[-1]), 1 - t[0], 1 - t[-1])
        found, expected = [*found, back], [*expected, a["reversed_states"][-1]]
    scale = np.maximum(1, np.abs(states[-1]).max())
    np.testing.assert_allclose(
        np.stack(found), np.stack(expected), rtol=0, atol=tolerance * scale
    )


FACTOR = 100  # of a tolerance per step, for the error of all steps
