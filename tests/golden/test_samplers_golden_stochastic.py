"""Recorded runs of stochastic samplers of other libraries, with their noise.

The steps are applied one by one, in NumPy. Levels of a record stand at integer times of
a `Table`; where its clock matters, one of our schedules is used. What a recorder does
that we do not is done here, and said.
"""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusionflow import samplers
from diffusionflow.predictions import Denoised
from diffusionflow.samplers import diffusions
from tests.helpers import golden, golden_schedules
from tests.helpers.golden_samplers import (
    ablation_schedule,
    is_noisy,
    library,
    lowered_at_the_end,
    said,
    second_order,
)
from tests.helpers.not_shipped import rule_of


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


ON_THE_HOST = (samplers.SASolver, samplers.Langevin)


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


LEVELS = ("alpha", "sigma")


def one_step(case, sampler, last_noise=True):
    schedule, rows, _ = by_levels(case, sampler)
    noise = drawn(case, len(jax.tree.leaves(rows)[0])) * said(case).get("s_noise", 1.0)
    if not last_noise:
        noise[-1] = 0
    found = replay(case, sampler, rows, schedule, states(case)[0], noise)
    return found, states(case)


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


def sa_solver(case):
    """tau is 1 for timesteps from 200 to 800; times here are numbers of steps."""
    settings, timesteps = said(case), case.a["timesteps"]
    with_noise = np.flatnonzero((timesteps >= 200) & (timesteps <= 800))
    forms = {"data_prediction": "x", "noise_prediction": "eps"}
    sampler = samplers.SASolver(
        settings["predictor_order"],
        settings["corrector_order"],
        t_min=with_noise[0] - 0.5,
        t_max=with_noise[-1] + 0.5,
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


def in_time(case, sampler, t, s, expected, last_noise=True, noise=None):
    """Steps in the time of the record's schedule."""
    schedule = golden_schedules.of(case)
    noise = drawn(case, len(t)) if noise is None else noise
    if not last_noise:
        noise[-1] = 0
    rows = plan(sampler, t, s, schedule)
    return replay(case, sampler, rows, schedule, expected[0], noise), expected


def score_sde(case):
    """Every step is one of 1/N, whatever the grid; the first state is not recorded."""
    a, settings = case.a, said(case)
    count, sampler, noise = settings["N"], samplers.EulerMaruyama(), None
    if settings["corrector"] == "ald":
        steps = settings["n_corrector_steps"]
        noise = a["noise"].reshape(count, steps + 1, *a["init_noise"].shape)
        sampler = samplers.Langevin(sampler, _ald(case) * settings["snr"], steps)
    schedule = golden_schedules.of(case)
    np.testing.assert_allclose(schedule.sigma(a["t"]), a["sigma"], rtol=1e-9)
    start = a["init_noise"] * case.config.get("init_scale", 1.0)
    expected = np.concatenate([start[None], a["states"]])
    return in_time(case, sampler, a["t"], a["t"] - 1 / count, expected, noise=noise)


def _ald(case):
    """What theirs multiplies snr with: sqrt(1 - beta) of a discrete VP, 1 for VE."""
    if case.choose("sde", {"vp": False, "ve": True}):
        return np.ones(case.config["N"])
    count = case.config["N"]
    betas = np.linspace(0.1, 20.0, count) / count
    return np.sqrt(1 - betas[(case.a["t"] * (count - 1)).astype(int)])


def hackable_sde(entry):
    """Euler-Maruyama; `config[entry]` is our eta."""

    def make(case):
        a, schedule = case.a, golden_schedules.of(case)
        np.testing.assert_allclose(schedule.sigma(a["t"]), a["sigma"], rtol=1e-9)
        sampler = samplers.EulerMaruyama(diffusions.Eta(case.config[entry]))
        last = case.config.get("stochastic_last_step", False)
        return in_time(case, sampler, a["t"][:-1], a["t"][1:], a["states"], last)

    return make


def hackable_ddpm(case):
    last = case.config.get("stochastic_last_step", False)
    return one_step(case, samplers.ddpm(), last)


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


def edm(case):
    return churned(case, case.choose("solver", {"euler": 1, "heun": 2}, "heun"))


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
            "DPMSolverSinglestepScheduler": always(samplers.SDEDPMSolver(1)),
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
            "ddim": hackable_ddpm,  # with stoch_coeff = 1
            "ddpm posterior": hackable_ddpm,
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
        | {"OverShootingSampler": overshooting},
    ),
    "score_sde": ("predictor", {"euler_maruyama": score_sde}),
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


@pytest.mark.parametrize("family", sorted({case.family for case in REPLAYED}))
def test_recorded_runs(family):
    found = {str(case): (case,) for case in REPLAYED if case.family == family}
    with jax.enable_x64(True), jax.disable_jit():
        golden.check_each(compare, found)


def test_every_record_is_replayed_or_a_rule_holds():
    golden.expect((len(RECORDS), len(REPLAYED)), (308, 273))
