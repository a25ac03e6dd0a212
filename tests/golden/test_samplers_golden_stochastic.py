"""Recorded runs of stochastic samplers of other libraries, with their noise.

What a recorder does that we do not is done here, and said.
"""

import jax
import numpy as np
import pytest

from diffusionflow import samplers
from diffusionflow.samplers import diffusions
from tests.helpers import golden, golden_schedules
from tests.helpers.golden_churn import churned, edm, edm_network, euler_network
from tests.helpers.golden_noise import (
    Sigma,
    Table,
    by_levels,
    drawn,
    in_time,
    one_step,
    plan,
    replay,
    states,
)
from tests.helpers.golden_samplers import (
    is_noisy,
    library,
    lowered_at_the_end,
    said,
    second_order,
)
from tests.helpers.golden_score_sde import score_sde
from tests.helpers.golden_stages import check_blocks, orders_of_fast
from tests.helpers.not_shipped import rule_of


def diffusers_sde(case):
    """The order is lowered at the end: a rule of theirs, applied here."""
    order, lower = said(case)["solver_order"], lowered_at_the_end(case)
    variable = "eps" if said(case)["algorithm_type"] == "sde-dpmsolver" else "x"
    of_order = lambda k: samplers.SDEDPMSolver(
        k, 1.0, second_order(case), "reference", variable
    )
    schedule, rows, (t, s) = by_levels(case, of_order(order))
    count, expected = len(t), states(case)
    plans = [plan(of_order(k), t, s, schedule) for k in range(1, order + 1)]
    for i in range(count):
        left, used = count - i, min(order, i + 1)
        if left <= lower or case.a["sigma_to"][i] == 0:
            used = min(used, left)
        for name in rows:
            rows[name][i] = plans[used - 1][name][i]
        if used == 3:
            _wrong_sign(rows, i, schedule, t, s)
    noise = drawn(case, count)
    return replay(case, of_order(order), rows, schedule, expected[0], noise), expected


def _wrong_sign(rows, i, schedule, t, s):
    """Their factor of the second difference has -1/2 in place of +1/2."""
    half = lambda t: np.log(schedule.alpha(t) / schedule.sigma(t))
    h, one, two = (half(s[j]) - half(t[j]) for j in (i, i - 1, i - 2))
    extra = schedule.alpha(s[i]) * h / (one + two)
    rows["near"][i] -= extra * h / one
    rows["far"][i] += extra * h / two


def singlestep_sde(case):
    """diffusers: the states are all stages, each with noise of its own."""
    settings, second = said(case), second_order(case)
    forms = {"sde-dpmsolver": "eps", "sde-dpmsolver++": "x"}
    sampler = samplers.SDEDPMSolverSinglestep(
        settings["solver_order"],
        case.choose("algorithm_type", forms),
        second,
        second,
        case.config.get("lower_order_final", False),
    )
    schedule, rows, _ = by_levels(case, sampler)
    np.testing.assert_array_equal(rows["first"], case.a["order_list"] == 1)
    noise, expected = drawn(case, len(rows["t"])), states(case)
    return replay(case, sampler, rows, schedule, expected[0], noise), expected


def dpm_fast(case):
    """k-diffusion: the last block has no noise, as the schedule ends there."""
    settings, a = said(case), case.a
    sigma = np.append(a["eval_sigma"], settings["sigma_min"])
    orders = orders_of_fast(settings["nfe"])
    schedule, t = Table(np.ones_like(sigma), sigma), np.arange(len(sigma) * 1.0)
    of_eta = lambda eta: samplers.SDEDPMSolverSinglestep(
        3, "eps", "midpoint", eta=eta, noise="ancestral"
    )
    sampler = of_eta(settings["eta"])
    rows, last = (each.plan(t[:-1], t[1:], schedule) for each in (sampler, of_eta(0.0)))
    check_blocks(rows, orders)
    for name in rows:
        rows[name][-orders[-1] :] = last[name][-orders[-1] :]
    ends, expected = np.cumsum(orders), states(case)
    noise = np.zeros((len(t) - 1, *a["init_noise"].shape))
    noise[ends - 1] = a["noise"] * settings.get("s_noise", 1.0)
    found = replay(case, sampler, rows, schedule, expected[0], noise)
    return found[np.append(0, ends)], expected


def sa_solver(case):
    """tau is 1 for timesteps from 200 to 800; times here are numbers of steps."""
    settings, timesteps = said(case), case.a["timesteps"]
    with_noise = np.flatnonzero((timesteps >= 200) & (timesteps <= 800))
    forms = {"data_prediction": "x", "noise_prediction": "eps"}
    sampler = samplers.SASolver(
        settings["predictor_order"],
        settings["corrector_order"],
        t_min=np.array(with_noise[0] - 0.5),  # arrays are not held to [0, 1]
        t_max=np.array(with_noise[-1] + 0.5),
        lower_final=4 if settings["lower_order_final"] else 0,
        variable=case.choose("algorithm_type", forms, "data_prediction"),
    )
    return one_step(case, sampler)


def two_stages(case, sampler):
    """Ancestral samplers with a second stage between the levels; alpha = 1."""
    a, expected = case.a, states(case)
    if "sigma_grid" in a:
        sigma = a["sigma_grid"]
    else:  # stage values are recorded between the completed steps
        done = a["is_grid"]
        sigma = np.append(a["sigma_eval"][done[:-1]], a["sigma_to"][-1])
        expected = expected[done]
    schedule, count = Sigma(sigma), len(sigma) - 1
    t = sigma / schedule.top
    rows = plan(sampler, t[:-1], t[1:], schedule)
    noise = np.zeros((count, sampler.num_noises, *expected[0].shape))
    drawn = a["noise"].reshape(-1, *noise.shape[1:])
    noise[: len(drawn)] = drawn * said(case).get("s_noise", 1.0)
    return replay(case, sampler, rows, schedule, expected[0], noise), expected


SIT_DIFFUSIONS = {
    "SBDM": lambda norm: diffusions.Eta(norm**0.5),
    "sigma": diffusions.Sigma,
    "linear": diffusions.Linear,
    "constant": diffusions.Constant,
    "decreasing": diffusions.Decreasing,
    "inccreasing-decreasing": diffusions.IncreasingDecreasing,
}
SIT_LAST = {"Mean": "mean", "Tweedie": "x_hat", "Euler": "flow", None: "noise"}


def sit(case):
    """t = 0 is noise there; after the grid comes the last step, to the data."""
    a, settings, t = case.a, said(case), 1 - case.a["t"]
    kinds = {"Euler": samplers.EulerMaruyama, "Heun": samplers.StochasticHeun}
    diffusion = case.choose("diffusion_form", SIT_DIFFUSIONS, "SBDM")
    sampler = case.choose("method", kinds, "Euler")(
        diffusion(settings["diffusion_norm"]),
        case.choose("last_step", SIT_LAST, settings["last_step"]),
    )
    expected = a["states"]
    if "final" in a:
        t = np.append(t, 0.0)
        expected = np.concatenate([expected, a["final"][None]])
    return in_time(case, sampler, t[:-1], t[1:], expected)


def hackable_sde(entry):
    """Euler-Maruyama; `config[entry]` is our eta."""

    def make(case):
        a, schedule = case.a, golden_schedules.of(case)
        np.testing.assert_allclose(schedule.sigma(a["t"]), a["sigma"], rtol=1e-9)
        sampler = samplers.EulerMaruyama(diffusions.Eta(case.config[entry]))
        last = case.config.get("stochastic_last_step", False)
        return in_time(case, sampler, a["t"][:-1], a["t"][1:], a["states"], last)

    return make


def hackable_ddim(case):
    last = case.config.get("stochastic_last_step", False)
    sampler = samplers.DDIMEta(case.config.get("stoch_coeff", 1.0), "scale")
    return one_step(case, sampler, last)


def diffusers_ddim(case):
    return one_step(case, samplers.DDIMEta(said(case).get("eta", 0.0)))


def diffusers_ddpm(case):
    kinds = {
        "fixed_small": "posterior",
        "fixed_small_log": "posterior",
        "fixed_large": "forward",
    }
    kind = case.choose("variance_type", kinds, "fixed_small")
    found, expected = one_step(case, samplers.ddpm(kind))
    if kind == "forward" and case.a["sigma_to"][-1] == 0:
        # theirs adds the noise of a step forward to the data too
        last = drawn(case, len(case.a["sigma_to"]))[-1]
        found[-1] += case.a["sigma_eval"][-1] * last
    return found, expected


def stochastic_flow(case):
    return one_step(case, samplers.Churn(1.0))


def replaced(case):
    """rectified_flow: of the noise, a part that does not depend on the step."""
    rate = said(case)["noise_replacement_rate"]
    if rate == "ddpm":
        return one_step(case, samplers.ddpm())
    kept = 1 - rate if case.config["sampler"].startswith("Stoch") else None
    gamma = rate if kept is None else (1 - kept**2) ** 0.5
    t = 1 - case.a["t"]
    return in_time(case, samplers.FlowMap(gamma), t[:-1], t[1:], case.a["states"])


def refreshed(case):
    """rectified_flow: the last step adds noise to the data too."""
    settings, expected = said(case), case.a["states"]
    scale, decay = settings["noise_scale"], settings["noise_decay_rate"]
    sampler = samplers.Refresh(
        diffusions.Sigma(scale, 1 + decay),
        case.choose("noise_method", {"stable": "replaced", "euler": "euler"}),
        case.choose("ode_method", {"curved": "x", "euler": "dz_dt"}),
    )
    t, schedule = 1 - case.a["t"], golden_schedules.of(case)
    rows = plan(sampler, t[:-1], t[1:], schedule)
    if sampler.variable == "dz_dt" and rows["noise"][-1] == 0:
        level = case.a["sigma"][-2]
        undone = min((t[-2] - t[-1]) * scale * level**decay, level)
        added = {"replaced": (2 * level - undone) * undone, "euler": 2 * level * undone}
        rows["noise"][-1] = added[sampler.noise] ** 0.5
    noise = drawn(case, len(t) - 1)
    return replay(case, sampler, rows, schedule, expected[0], noise), expected


def overshooting(case):
    t = 1 - case.a["t"]
    sampler = samplers.Overshoot(case.config["c"])
    return in_time(case, sampler, t[:-1], t[1:], case.a["states"])


def by_eta(make):
    return lambda case: one_step(case, make(case, said(case)["eta"]))


def always(sampler):
    return lambda case: one_step(case, sampler)


def dpm_sde(case, eta):
    return samplers.SDEDPMSolver(2, eta, second_order(case))


# library: what names the method in its records, and our replay of each
REPLAYS = {
    "diffusers": (
        "scheduler",
        {
            "DDIMScheduler": diffusers_ddim,
            "DDPMScheduler": diffusers_ddpm,
            "DPMSolverMultistepScheduler": diffusers_sde,
            "EDMDPMSolverMultistepScheduler": diffusers_sde,
            "DPMSolverSinglestepScheduler": singlestep_sde,
            "EDMEulerScheduler": lambda case: churned(case, 1, edm_network),
            "EulerDiscreteScheduler": lambda case: churned(case, 1, euler_network),
            "KDPM2AncestralDiscreteScheduler": lambda case: two_stages(
                case, samplers.Ancestral2S("eps")
            ),
            "DPMSolverSDEScheduler": lambda case: two_stages(
                case, samplers.SDEDPMSolver2S()
            ),
            "EulerAncestralDiscreteScheduler": always(samplers.DDIMEta(1.0)),
            "FlowMatchEulerDiscreteScheduler": stochastic_flow,
            "SASolverScheduler": sa_solver,
        },
    ),
    "edm_sampler": ("function", {"edm_sampler": edm, "ablation_sampler": edm}),
    "hackable_diffusion": (
        "method",
        {
            "ddim": hackable_ddim,
            "ddim, interpolated noise": hackable_ddim,
            "ddpm posterior": hackable_ddim,
            "euler-maruyama": hackable_sde("churn"),
            "euler-maruyama on the velocity": hackable_sde("epsilon"),
        },
    ),
    "kdiffusion_sampler": (
        "function",
        {
            "sample_euler": lambda case: churned(case, 1),
            "sample_heun": lambda case: churned(case, 2),
            "sample_dpm_2": lambda case: churned(case, 2, second="midpoint"),
            "sample_dpm_fast": dpm_fast,
            "sample_dpm_2_ancestral": lambda case: two_stages(
                case, samplers.Ancestral2S("eps", said(case)["eta"])
            ),
            "sample_dpmpp_2s_ancestral": lambda case: two_stages(
                case, samplers.Ancestral2S("x", said(case)["eta"])
            ),
            "sample_dpmpp_sde": lambda case: two_stages(
                case, samplers.SDEDPMSolver2S(said(case)["eta"], said(case)["r"])
            ),
            "sample_euler_ancestral": by_eta(lambda case, eta: samplers.DDIMEta(eta)),
            "sample_dpmpp_2m_sde": by_eta(dpm_sde),
            "sample_dpmpp_3m_sde": by_eta(
                lambda case, eta: samplers.SDEDPMSolver(3, eta, third="reference")
            ),
        },
    ),
    "rectified_flow": (
        "sampler",
        dict.fromkeys(("StochasticCurvedEulerSampler", "NoiseRefreshSampler"), replaced)
        | {"OverShootingSampler": overshooting, "SDESampler": refreshed},
    ),
    "score_sde": ("kind", {"sampler": score_sde}),
    "sit": ("kind", {"sampler": sit}),
    "vdm": ("kind", {"sampler": always(samplers.ddpm())}),
}


def reproduce(case):
    """`(our states, recorded states)`."""
    entry, replays = REPLAYS.get(library(case), (None, {}))
    name = said(case).get(entry)
    if name not in replays:
        raise case.unknown(f"{entry}={name!r}", "neither replayed nor in a rule")
    return replays[name](case)


RECORDS = [
    case
    for kind in ("sampler", "sampler_adaptive")
    for case in golden.cases(kind)
    if is_noisy(case)
]
REPLAYED = [case for case in RECORDS if rule_of(case) is None]


def compare(case):
    tolerance = 1e-8 if case.family == "hackable_diffusion" else 1e-9
    ours, theirs = reproduce(case)
    scale = np.maximum(1, np.abs(theirs).max())
    np.testing.assert_allclose(
        ours, theirs, rtol=0, atol=tolerance * scale, err_msg=str(case.config)
    )


@pytest.mark.ci
@pytest.mark.parametrize("family", sorted({case.family for case in REPLAYED}))
def test_recorded_runs(family):
    found = {str(case): (case,) for case in REPLAYED if case.family == family}
    with jax.enable_x64(True), jax.disable_jit():
        golden.check_each(compare, found)


def test_every_record_is_replayed_or_a_rule_holds():
    golden.expect((len(RECORDS), len(REPLAYED)), (308, 308))
