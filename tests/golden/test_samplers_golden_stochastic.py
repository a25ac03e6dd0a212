"""Recorded runs of stochastic samplers of other libraries, with their noise.

The steps are applied one by one, in NumPy. Levels of a record stand at integer times of
a `Table`; where its clock matters, one of our schedules is used. What a recorder does
that we do not is done here, and said.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusionflow import samplers, schedules
from diffusionflow.predictions import Denoised
from diffusionflow.samplers import diffusions
from tests.helpers import golden
from tests.helpers.not_shipped import STOCHASTIC as NOT_SHIPPED

FAMILIES = (
    "diffusers_ddim_ddpm",
    "diffusers_dpmsolver",
    "diffusers_edm",
    "diffusers_sigma",
    "diffusers_flow",
    "diffusers_unipc_deis",
    "edm_sampler",
    "kdiffusion_sampler",
    "hackable_diffusion",
    "vdm",
    "rectified_flow",
    "score_sde",
    "sit",
)


class Table:
    """Levels at times 0, 1, 2, ..."""

    def __init__(self, alpha, sigma):
        self.levels = np.array(alpha, float), np.array(sigma, float)

    def alpha(self, t):
        return self.levels[0][np.asarray(t).astype(int)] + 0 * t

    def sigma(self, t):
        return self.levels[1][np.asarray(t).astype(int)] + 0 * t


class Sigma:
    """alpha = 1 and sigma = 1000 t, far beyond every level that is raised."""

    def alpha(self, t):
        return 0 * t + 1

    def sigma(self, t):
        return 1000 * t

    def inverse_logsnr(self, logsnr):
        return jnp.exp(-logsnr / 2) / 1000


def plan(sampler, t, s, schedule):
    """The last step is repeated, so that all plans have one length to compile."""
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
        state = sampler.step(state, row, noise[i][None], fn)
        found.append(np.asarray(sampler.output(state)))
    return np.stack(found)


def drawn(case, count):
    """The recorded noise of each step, zero where none was drawn."""
    values = np.zeros((count, *case.a["init_noise"].shape))
    number = case.a.get("noise_step", np.arange(len(case.a.get("noise", ()))))
    if len(number):
        values[number] = case.a["noise"]
    return values * case.config.get("s_noise", 1.0)


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
    noise = drawn(case, len(jax.tree.leaves(rows)[0]))
    if not last_noise:
        noise[-1] = 0
    found = replay(case, sampler, rows, schedule, states(case)[0], noise)
    return found, states(case)


def diffusers_sde(case):
    """The order is lowered at the end: a rule of theirs, applied here."""
    order, config = case.config["solver_order"], case.config
    form = "taylor" if config.get("solver_type") == "heun" else "midpoint"
    sampler = samplers.SDEDPMSolver(order, 1.0, form, "reference")
    schedule, rows, (t, s) = by_levels(case, sampler)
    count = len(t)
    plans = [
        plan(samplers.SDEDPMSolver(k, 1.0, form, "reference"), t, s, schedule)
        for k in range(1, order + 1)
    ]
    ends_at_zero = case.a["sigma_to"][-1] == 0
    for i in range(count):
        used = min(order, i + 1)
        if i == count - 1 and (ends_at_zero or count < 15):
            used = 1
        if i == count - 2 and count < 15:
            used = min(used, 2)
        for name in rows:
            rows[name][i] = plans[used - 1][name][i]
        if used == 3:
            _wrong_sign(rows, i, schedule, t, s)
    noise = drawn(case, count)
    return replay(case, sampler, rows, schedule, states(case)[0], noise), states(case)


def _wrong_sign(rows, i, schedule, t, s):
    """Their factor of the second difference has -1/2 in place of +1/2."""
    half = lambda t: np.log(schedule.alpha(t) / schedule.sigma(t))
    h, one, two = (half(s[j]) - half(t[j]) for j in (i, i - 1, i - 2))
    extra = schedule.alpha(s[i]) * h / (one + two)
    rows["near"][i] -= extra * h / one
    rows["far"][i] += extra * h / two


def churned(case, stages, before=None, prefix="s_"):
    """EDM's sampler; where `before` is set, the network is called before the noise."""
    config = case.config.get("step_kwargs", case.config)
    read = lambda name, default: config.get(name) or default
    low, high = ("S_min", "S_max") if prefix == "S_" else ("s_tmin", "s_tmax")
    sampler = samplers.EDM(
        read(f"{prefix}churn", 0.0),
        read(low, 0.0),
        read(high, np.inf),
        read(f"{prefix}noise", 1.0),
        stages,
    )
    if "sigma_grid" in case.a:
        sigma = case.a["sigma_grid"]
    else:
        sigma = np.append(case.a["sigma_eval"], case.a["sigma_to"][-1])
    schedule, t = Sigma(), sigma / 1000
    rows = plan(sampler, t[:-1], t[1:], schedule)
    if "sigma_hat" in case.a:
        raised = 1000 * rows.get("euler", rows)["t"]
        np.testing.assert_allclose(raised, case.a["sigma_hat"], rtol=1e-12)
    noise = drawn(case, len(sigma) - 1) / case.config.get("s_noise", 1.0)
    denoised, start = None, case.a["init_noise"] * sigma[0]
    mixture = golden.Mixture(case.meta["mixture"])
    if before:
        start = states(case)[0]
        numbers = iter(range(len(sigma)))

        def denoised(before_z, z, t):
            level, raised = sigma[next(numbers)], 1000 * t
            x, eps = mixture.denoised(before_z, 1.0, level)
            if before == "F":  # the raw output of an EDM network with sigma_data 1/2
                skip = lambda sigma: 0.25 / (sigma**2 + 0.25)
                out = lambda sigma: 0.5 * sigma / np.sqrt(sigma**2 + 0.25)
                raw = (x - skip(level) * before_z) / out(level)
                x = skip(raised) * z + out(raised) * raw
                return x, (z - x) / raised
            return z - raised * eps, eps

    found = replay(case, sampler, rows, schedule, start, noise, denoised)
    if "callback_x" in case.a:  # records begin after the noise
        raised = rows["raise_z"][:, None, None] * found[:-1]
        raised = raised + rows["raise_noise"][:, None, None] * noise
        return np.concatenate([raised, found[-1:]]), states(case)
    return found, states(case)


def in_time(case, sampler, schedule, t, s, start, noise, expected):
    rows = plan(sampler, t, s, schedule)
    return replay(case, sampler, rows, schedule, start, noise), expected


SIT_PATHS = {
    "Linear": schedules.FlowMatching(),
    "GVP": schedules.Cosine(),
    "VP": schedules.LinearBeta(),
}
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
    config, t = case.config, 1 - case.a["t"]
    kind = samplers.EulerMaruyama if config["method"] == "Euler" else None
    kind = kind or samplers.StochasticHeun
    diffusion_fn = SIT_DIFFUSIONS[config["diffusion_form"]](config["diffusion_norm"])
    last = config["last_step"]
    sampler = kind(diffusion_fn, SIT_LAST[None if last == "None" else last])
    expected = case.a["states"]
    if "final" in case.a:
        t = np.append(t, 0.0)
        expected = np.concatenate([expected, case.a["final"][None]])
    schedule, noise = SIT_PATHS[config["path"]], drawn(case, len(t) - 1)
    return in_time(case, sampler, schedule, t[:-1], t[1:], expected[0], noise, expected)


def score_sde(case):
    """Every step is one of 1/N, whatever the grid; the first state is not recorded."""
    a, count = case.a, case.config["N"]
    schedule = {
        "vp": schedules.LinearBeta(),
        "subvp": schedules.SubVP(),
        "ve": schedules.VE(0.01, 50.0),
    }[case.config["sde"]]
    np.testing.assert_allclose(schedule.sigma(a["t"]), a["sigma"], rtol=1e-9)
    start = a["init_noise"] * case.meta["config"]["init_scale"]
    sampler = samplers.EulerMaruyama()
    found, _ = in_time(
        case,
        sampler,
        schedule,
        a["t"],
        a["t"] - 1 / count,
        start,
        drawn(case, count),
        0,
    )
    return found[1:], a["states"]


def hackable(case):
    config, a = case.config, case.a
    if case.method.startswith("ddpm"):
        return one_step(case, samplers.ddpm(), config.get("stochastic_last_step"))
    schedule = {"cosine": schedules.Cosine(), "linear": schedules.LinearBeta()}[
        config["schedule"]
    ]
    np.testing.assert_allclose(schedule.sigma(a["t"]), a["sigma"], rtol=1e-9)
    eta = config["churn"] if "churn" in config else config["epsilon"]
    noise = drawn(case, len(a["t"]) - 1)
    noise[-1] = 0
    return in_time(
        case,
        samplers.EulerMaruyama(diffusions.Eta(eta)),
        schedule,
        a["t"][:-1],
        a["t"][1:],
        a["states"][0],
        noise,
        a["states"],
    )


def reproduce(case):
    """`(our states, recorded states)`, or None where no sampler of ours is meant."""
    family, method, config = case.family, case.method, case.config
    match family:
        case "diffusers_ddim_ddpm" if method.strip() == "ddim":
            kwargs = config["step_kwargs"]
            return one_step(case, samplers.DDIMEta(kwargs["eta"]))
        case "diffusers_ddim_ddpm" if method.strip() == "ddpm":
            large = config["variance_type"] == "fixed_large"
            return one_step(case, samplers.ddpm("forward" if large else "posterior"))
        case "diffusers_dpmsolver" | "diffusers_edm" | "diffusers_flow" if (
            method.startswith("multistep sde-dpmsolver++")
        ):
            return diffusers_sde(case)
        case "diffusers_edm" if "churn" in method:
            return churned(case, 1, before="F")
        case "diffusers_sigma" if "churn" in method:
            return churned(case, 1, before="eps")
        case "diffusers_sigma" if method == "euler_ancestral":
            return one_step(case, samplers.DDIMEta(1.0))
        case "edm_sampler" if method == "EDM Algorithm 2":
            return churned(case, 2, prefix="S_")
        case "kdiffusion_sampler" if method in ("euler with churn", "heun with churn"):
            return churned(case, 1 if method.startswith("euler") else 2)
        case "kdiffusion_sampler" if method == "euler_ancestral":
            return one_step(case, samplers.DDIMEta(config["eta"]))
        case "kdiffusion_sampler" if method == "dpmpp_2m_sde":
            form = "taylor" if config["solver_type"] == "heun" else "midpoint"
            return one_step(case, samplers.SDEDPMSolver(2, config["eta"], form))
        case "kdiffusion_sampler" if method == "dpmpp_3m_sde":
            sampler = samplers.SDEDPMSolver(3, config["eta"], third="reference")
            return one_step(case, sampler)
        case "hackable_diffusion" if not method.startswith("ddim"):
            return hackable(case)
        case "vdm":
            return one_step(case, samplers.ddpm())
        case "rectified_flow" if config.get("noise_replacement_rate") == "ddpm":
            return one_step(case, samplers.ddpm())
        case "score_sde" if method == "predictor euler_maruyama, corrector none":
            return score_sde(case)
        case "sit":
            return sit(case)
    return None


CASES = [
    case
    for family in FAMILIES
    for case in golden.cases("sampler", family)
    if "noise" in case.a or family == "diffusers_ddim_ddpm"
    if case.config.get("eta") != 0.0  # the noise of these is multiplied by 0
]


def reason(case):
    for (family, start), why in NOT_SHIPPED.items():
        if case.family == family and case.method.startswith(start):
            return why
    return None


@pytest.mark.parametrize("family", FAMILIES)
def test_recorded_runs(family):
    replayed = 0
    with jax.enable_x64(True), jax.disable_jit():
        for case in CASES:
            if case.family != family:
                continue
            found = reproduce(case)
            if found is None:
                assert reason(case), case
                continue
            ours, theirs = found
            tolerance = 1e-8 if family == "hackable_diffusion" else 1e-9
            scale = np.maximum(1, np.abs(theirs).max())
            np.testing.assert_allclose(
                ours, theirs, rtol=0, atol=tolerance * scale, err_msg=str(case)
            )
            replayed += 1
    assert replayed or family == "diffusers_unipc_deis"


def test_every_reason_is_that_of_a_record():
    for family, start in NOT_SHIPPED:
        assert any(c.family == family and c.method.startswith(start) for c in CASES)
