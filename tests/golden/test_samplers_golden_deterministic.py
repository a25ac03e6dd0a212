"""Samplers without noise against the runs of other people's libraries, in float64.

A record gives the levels of its steps; `Levels` is the schedule through them. Where a
record steps in a time of its own, our schedule of that name is used. Every record
whose states have no noise in them is replayed, or a rule of `not_shipped` holds for it.
"""

import dataclasses

import jax
import numpy as np
import pytest

from diffusionflow import samplers
from tests.helpers import golden, golden_adaptive, golden_schedules, golden_stages
from tests.helpers.golden_runs import close, on_levels, run
from tests.helpers.golden_samplers import (
    is_noisy,
    levels,
    library,
    lowered_at_the_end,
    said,
    second_order,
)
from tests.helpers.golden_score_sde import score_sde
from tests.helpers.not_shipped import RULES, rule_of

LEVELS = ("alpha", "sigma")


# ---- what each method of each library is here


def form(case, name):
    """What a DPM-Solver takes to be a polynomial."""
    return case.choose(name, {"dpmsolver": "eps", "dpmsolver++": "x"}, "dpmsolver++")


def dpm_multistep(case):
    """diffusers: the last step is Euler's, and the last two are lowered below 15."""
    sampler = samplers.DPMSolver(
        said(case)["solver_order"],
        form(case, "algorithm_type"),
        second_order(case),
        "reference",
        lowered_at_the_end(case),
    )
    on_levels(case, sampler, *levels(case), case.a["states"])


def deis(case):
    """A polynomial in log rho: DPM-Solver's in eps, integrated exactly.

    On grids of levels the recorder repeats the last, and its last step goes nowhere.
    """
    sampler = samplers.DPMSolver(
        said(case)["solver_order"],
        "eps",
        "taylor",
        lower_final=lowered_at_the_end(case),
    )
    alpha, sigma = levels(case)
    states = case.a["states"]
    if sigma[-1] == sigma[-2]:
        close(states[-1], states[-2])
        alpha, sigma, states = alpha[:-1], sigma[:-1], states[:-1]
        lower = 1 if sampler.lower_final and sampler.order > 2 else 0
        assert not lower, "the step before the last is of order 2 there"
        sampler = dataclasses.replace(sampler, lower_final=0)
    on_levels(case, sampler, alpha, sigma, states)


def unipc(case):
    settings = said(case)
    order = settings["solver_order"]
    sampler = samplers.UniPC(
        order,
        settings.get("solver_type", "bh2"),
        "x" if settings["predict_x0"] else "eps",
        order if settings["lower_order_final"] else 0,
    )

    def change(rows):  # the recorder can leave out early corrections
        rows["correction"] = rows["correction"].copy()
        for step in settings["disable_corrector"]:
            rows["correction"][step + 1 : step + 2] = 0

    on_levels(case, sampler, *levels(case), case.a["states"], change=change)


def single(sampler):
    """Samplers without memory and with one state a step."""
    return lambda case: on_levels(case, sampler, *levels(case), case.a["states"])


def on_grid(sampler):
    """Stage values are recorded between the completed steps."""

    def replay(case):
        a, done = case.a, case.a["is_grid"]
        alpha, sigma = (
            np.append(a[f"{name}_eval"][done[:-1]], a[f"{name}_to"][-1])
            for name in LEVELS
        )
        on_levels(case, sampler, alpha, sigma, a["states"][done])

    return replay


def lms(case):
    sampler = samplers.AdamsBashforth(said(case)["order"], "eps")
    on_levels(case, sampler, *levels(case), case.a["states"])


def official_multistep(case):
    """The authors' DPM-Solver: it lowers the order at the end below 10 steps."""
    settings, a = said(case), case.a
    alpha, sigma, states = a["alpha"], a["sigma"], a["states"]
    lower = settings["lower_order_final"] and settings["steps"] < 10
    order = settings["order"]
    sampler = samplers.DPMSolver(
        order,
        form(case, "algorithm"),
        second_order(case),
        "reference",
        order if lower else 0,
    )
    on_levels(case, sampler, alpha, sigma, states[: len(alpha)])
    denoise_to_zero(case)


def denoise_to_zero(case):
    """One more step, to the data."""
    a, count = case.a, len(case.a["alpha"])
    if len(a["states"]) > count:
        part = np.append(a["alpha"][-1], 1.0), np.append(a["sigma"][-1], 0.0)
        on_levels(case, samplers.ddim(), *part, a["states"][count - 1 :])


def official_singlestep(case):
    golden_stages.official_singlestep(case)
    denoise_to_zero(case)


def karras(make):
    """k-diffusion: `make(case)` is the sampler, in alpha = 1."""

    def replay(case):
        sigma = case.a["sigma_grid"]
        states = np.concatenate([case.a["callback_x"], case.a["final"][None]])
        on_levels(case, make(case), np.ones_like(sigma), sigma, states)

    return replay


def always(sampler):
    return karras(lambda case: sampler)


def in_time(sampler):
    """Solvers in the recorded time itself, which is ours reversed.

    Ours do not evaluate at sigma = 0; the recorders do, so there the last state of a
    method with a stage at the end of the step differs.
    """

    def replay(case):
        if case.config.get("step_size") is not None:
            return fixed_step(case, sampler)
        a, schedule = case.a, golden_schedules.of(case)
        t = 1 - a["t"]
        with jax.enable_x64(True):
            at_data = float(schedule.sigma(t[-1])) == 0
        last = len(t) - (1 in sampler.tableau.c and at_data)
        found = run(case, sampler, a["states"][0], t[:last], schedule)
        close(found, a["states"][:last])

    return replay


def fixed_step(case, sampler):
    """Steps of one size, the last one cut; the final state alone is recorded."""
    if 1 in sampler.tableau.c:
        raise case.unknown("a final state alone", "ours ends with Euler's step")
    h, end = case.config["step_size"], case.config.get("t_end", 1.0)
    count = int(np.ceil(end / h - 1e-9))
    t = 1 - np.append(np.arange(count) * h, end)
    schedule = golden_schedules.of(case)
    found = run(case, sampler, case.a["init_noise"], t, schedule)
    close(found[-1], case.a["final"])


def plain_levels(sampler, tolerance=1e-9):
    return lambda case: on_levels(
        case, sampler, case.a["alpha"], case.a["sigma"], case.a["states"], tolerance
    )


def score_sde_flow(case):
    with jax.enable_x64(True), jax.disable_jit():
        close(*score_sde(case))


def hackable_heun(case):
    """Completed states are the even ones; the last update, if odd, is Euler's."""
    a, schedule = case.a, golden_schedules.of(case)
    even, states = a["t"][::2], a["states"][::2]
    found = run(case, samplers.Heun(), states[0], even, schedule)
    close(found, states, 1e-8)
    if len(a["t"]) % 2 == 0:
        found = run(case, samplers.Euler(), a["states"][-2], a["t"][-2:], schedule)
        close(found[1], a["states"][-1], 1e-8)


def hackable_euler(case):
    schedule = golden_schedules.of(case)
    found = run(case, samplers.Euler(), case.a["states"][0], case.a["t"], schedule)
    close(found, case.a["states"], 1e-8)


ODES = {
    "euler": in_time(samplers.Euler()),
    "midpoint": in_time(samplers.Midpoint()),
    "heun2": in_time(samplers.Heun()),
    "heun3": in_time(samplers.RungeKutta("heun3")),
    "rk4": in_time(samplers.RungeKutta("three_eighths")),
}
# library: what names the method in its records, and our replay of each
REPLAYS = {
    "diffusers": (
        "scheduler",
        {
            "DPMSolverMultistepScheduler": dpm_multistep,
            "EDMDPMSolverMultistepScheduler": dpm_multistep,
            "DPMSolverSinglestepScheduler": golden_stages.singlestep,
            "UniPCMultistepScheduler": unipc,
            "DEISMultistepScheduler": deis,
            "EDMEulerScheduler": single(samplers.Euler("eps")),
            "EulerDiscreteScheduler": single(samplers.Euler("eps")),
            "HeunDiscreteScheduler": on_grid(samplers.Heun("eps")),
            "LMSDiscreteScheduler": lms,
            "PNDMScheduler": golden_stages.pndm,
            "KDPM2DiscreteScheduler": on_grid(samplers.DPMSolver2S("eps")),
            "FlowMatchEulerDiscreteScheduler": single(samplers.Euler("u")),
            "FlowMatchHeunDiscreteScheduler": on_grid(samplers.Heun("u")),
        },
    ),
    "dpm_solver": (
        "method",
        {
            "multistep": official_multistep,
            "singlestep": official_singlestep,
            "singlestep_fixed": official_singlestep,
            "adaptive": golden_adaptive.official_dpm,
        },
    ),
    "edm_sampler": (
        "function",
        dict.fromkeys(("edm_sampler", "ablation_sampler"), golden_stages.edm),
    ),
    "flow_matching": ("method", ODES | {"dopri5": golden_adaptive.ode}),
    "hackable_diffusion": (
        "method",
        {
            "ddim": plain_levels(samplers.ddim(), 1e-8),
            "euler on the flow ODE": hackable_euler,
            "euler-maruyama": hackable_euler,  # with churn = 0
            "euler-maruyama on the velocity": hackable_euler,  # with epsilon = 0
            "heun on the flow ODE": hackable_heun,
        },
    ),
    "kdiffusion_sampler": (
        "function",
        {  # the ancestral ones with eta = 0
            "sample_euler": always(samplers.Euler("eps")),
            "sample_euler_ancestral": always(samplers.Euler("eps")),
            "sample_heun": always(samplers.Heun("eps")),
            "sample_dpm_2": always(samplers.DPMSolver2S("eps")),
            "sample_dpm_2_ancestral": always(samplers.DPMSolver2S("eps")),
            "sample_dpmpp_2s_ancestral": always(samplers.DPMSolver2S("x")),
            "sample_dpmpp_sde": karras(
                lambda case: samplers.DPMSolver2S("x", r=said(case)["r"])
            ),
            "sample_lms": karras(
                lambda case: samplers.AdamsBashforth(said(case)["order"], "eps")
            ),
            "sample_dpmpp_2m": always(samplers.DPMSolver(2)),
            "sample_dpmpp_2m_sde": karras(
                lambda case: samplers.DPMSolver(2, second=second_order(case))
            ),
            "sample_dpmpp_3m_sde": always(
                samplers.DPMSolver(3, second="taylor", third="reference")
            ),
            "sample_dpm_fast": golden_stages.dpm_fast,
            "sample_dpm_adaptive": golden_adaptive.dpm,
        },
    ),
    "rectified_flow": (
        "sampler",
        {
            "EulerSampler": in_time(samplers.Euler()),
            "CurvedEulerSampler": plain_levels(samplers.ddim()),
        },
    ),
    "score_sde": (
        "kind",
        {"sampler": score_sde_flow, "sampler_adaptive": golden_adaptive.ode},
    ),
    "sit": ("method", ODES | {"dopri5 on the PF-ODE, and back": golden_adaptive.ode}),
}


def replay_of(case):
    entry, replays = REPLAYS.get(library(case), (None, {}))
    name = said(case).get(entry)
    if name not in replays:
        raise case.unknown(f"{entry}={name!r}", "neither replayed nor in a rule")
    return replays[name]


RECORDS = [
    case
    for kind in ("sampler", "sampler_adaptive")
    for case in golden.cases(kind)
    if not is_noisy(case)
]
REPLAYED = [case for case in RECORDS if rule_of(case) is None]


def first_of_each():
    """The first record of each method, slow with adaptive steps; the rest nightly."""
    met = set()
    for case in REPLAYED:
        known = (case.family, case.method) in met
        met.add((case.family, case.method))
        marks = golden.nightly(known)
        if case.kind == "sampler_adaptive" and not golden.NAMED:
            marks = marks or [pytest.mark.slow]
        yield pytest.param(case, id=f"{case.family}-{case.id}", marks=marks)


@pytest.mark.parametrize("case", list(first_of_each()))
def test_recorded_run(case):
    replay_of(case)(case)


def test_every_record_is_replayed_or_a_rule_holds():
    golden.expect((len(RECORDS), len(REPLAYED)), (551, 548))


@pytest.mark.skipif(bool(golden.NAMED), reason="rules for the records that are shipped")
def test_every_rule_is_that_of_a_record():
    runs = golden.cases("sampler") + golden.cases("sampler_adaptive")
    assert {rule_of(case) for case in runs} == {None, *RULES}


def test_the_adjusted_ddim_that_is_not_shipped_ends_short_of_the_data():
    rule = next(r for r in RULES if r.library == "hackable_diffusion")
    cases = list(filter(rule.holds, golden.cases("sampler")))
    assert cases
    for case in cases:
        a, mixture = case.a, golden.Mixture(case.meta["mixture"])
        parts = mixture.denoised(a["states"][-2], a["alpha"][-2], a["sigma"][-2])
        parts = np.stack([part.ravel() for part in parts], axis=1)
        (x, eps), *_ = np.linalg.lstsq(parts, a["states"][-1].ravel())
        np.testing.assert_allclose(x, a["alpha"][-2], rtol=1e-9)
        assert x < a["alpha"][-1] - 4e-4 and eps > 0.09 > a["sigma"][-1]
