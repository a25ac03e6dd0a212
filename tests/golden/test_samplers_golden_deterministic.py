"""Samplers without noise against the runs of other people's libraries, in float64.

A record gives the levels of its steps; `Levels` is the schedule through them. Where a
record steps in a time of its own, our schedule of that name is used. Every record of
these families that draws no noise is replayed, or named in `NOT_SHIPPED`.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusionflow import samplers
from diffusionflow._dataclass import register
from diffusionflow.predictions import Denoised
from tests.helpers import golden
from tests.helpers.golden_schedules import named
from tests.helpers.not_shipped import DETERMINISTIC as NOT_SHIPPED

FAMILIES = (
    "dpm_solver",
    "diffusers_dpmsolver",
    "diffusers_unipc_deis",
    "diffusers_flow",
    "diffusers_sigma",
    "diffusers_edm",
    "edm_sampler",
    "kdiffusion_sampler",
    "flow_matching",
    "sit",
    "rectified_flow",
    "score_sde",
    "hackable_diffusion",
)


@register
class Levels:
    """Recorded levels at t = 1, 1 - 1/n, ..., 0; log-linear between them."""

    alphas: np.ndarray
    sigmas: np.ndarray

    def alpha(self, t):
        return self._at(self.alphas, t)

    def sigma(self, t):
        return self._at(self.sigmas, t)

    def logsnr(self, t):
        return 2 * jnp.log(self.alpha(t) / self.sigma(t))

    def inverse_logsnr(self, logsnr):
        with np.errstate(divide="ignore"):
            known = 2 * np.log(self.alphas / self.sigmas)
        place = np.interp(logsnr, known, np.arange(len(known)))
        return jnp.asarray(1 - place / (len(known) - 1))

    def _at(self, table, t):
        place = (1 - np.asarray(t)) * (len(table) - 1)
        below = np.clip(np.floor(place + 1e-9).astype(int), 0, len(table) - 2)
        part = place - below
        part = np.where(np.abs(part - np.round(part)) < 1e-9, np.round(part), part)
        with np.errstate(divide="ignore", invalid="ignore"):
            log = np.log(table)
            between = np.exp((1 - part) * log[below] + part * log[below + 1])
        value = np.where(part == 1, table[below + 1], between)
        return jnp.asarray(np.where(part == 0, table[below], value))


def times(levels):
    return 1 - np.arange(len(levels)) / (len(levels) - 1)


def run(case, sampler, z, grid, schedule, change=lambda rows: None):
    """States at the times of `grid`, `[len(grid), *z.shape]`."""
    mixture = golden.Mixture(case.meta["mixture"])

    def denoise_fn(z, t):
        level = (np.asarray(schedule.alpha(t)), np.asarray(schedule.sigma(t)))
        return Denoised(*mixture.denoised(z, *level))

    with jax.enable_x64(True):
        grid = np.asarray(grid, np.float64)
        rows = sampler.plan(grid[:-1], grid[1:], schedule)
        rows = jax.tree.map(np.asarray, rows)
    with jax.enable_x64(True), jax.disable_jit():
        change(rows)
        state, found = sampler.init(z), [z]
        for i in range(len(grid) - 1):
            row = jax.tree.map(lambda column, i=i: column[i], rows)
            state = sampler.step(state, row, np.zeros((1, *z.shape)), denoise_fn)
            found.append(np.asarray(sampler.output(state)))
    return np.stack(found)


def on_levels(case, sampler, alpha, sigma, states, tolerance=1e-9, **kwargs):
    schedule = Levels(np.asarray(alpha), np.asarray(sigma))
    found = run(case, sampler, states[0], times(alpha), schedule, **kwargs)
    np.testing.assert_allclose(found, states, rtol=tolerance, atol=tolerance)


def chain(case):
    """`(alpha, sigma)` of the states; the levels aimed at are those assumed next."""
    a = case.a
    for name in ("alpha", "sigma"):
        np.testing.assert_array_equal(a[f"{name}_to"][:-1], a[f"{name}_eval"][1:])
    return (np.append(a[f"{name}_eval"], a[f"{name}_to"][-1]) for name in LEVELS)


LEVELS = ("alpha", "sigma")


# ---- what each method of each library is here


def dpm_multistep(case):
    """diffusers: the last step is Euler's, and the last two are lowered below 15."""
    config, count = case.config, len(case.a["alpha_eval"])
    lower = 2 if config.get("lower_order_final", True) and count < 15 else 0
    if config.get("euler_at_final"):
        lower = max(lower, 1)
    sampler = samplers.DPMSolver(
        config.get("solver_order", 2),
        "eps" if config.get("algorithm_type") == "dpmsolver" else "x",
        "taylor" if config.get("solver_type") == "heun" else "midpoint",
        "reference",
        lower,
    )
    on_levels(case, sampler, *chain(case), case.a["states"])


def dpm_singlestep(case):
    """diffusers: a step of order 2 starts where the one before it, of order 1, did."""
    config, a = case.config, case.a
    form = "eps" if config.get("algorithm_type") == "dpmsolver" else "x"
    second = "taylor" if config.get("solver_type") == "heun" else "midpoint"
    alpha, sigma = chain(case)
    for j, order in enumerate(a["order_list"]):
        first = j + 1 - order
        part = slice(first, j + 2)
        two_stages(
            case, form, second, alpha[part], sigma[part], a["states"][[first, j + 1]]
        )


def two_stages(case, form, second, alpha, sigma, states):
    """One step of order 1 or 2 over two or three recorded levels."""
    if len(alpha) == 2:
        return on_levels(case, samplers.DPMSolver(1, form), alpha, sigma, states)
    ell = np.log(alpha / sigma)
    r = (ell[1] - ell[0]) / (ell[2] - ell[0])
    sampler, schedule = (
        samplers.DPMSolver2S(form, second, float(r)),
        Levels(alpha, sigma),
    )
    found = run(case, sampler, states[0], [1.0, 0.0], schedule)
    return np.testing.assert_allclose(found[1], states[1], rtol=1e-9, atol=1e-9)


def unipc(case):
    config = case.config
    order = config.get("solver_order", 2)
    sampler = samplers.UniPC(
        order,
        config.get("solver_type", "bh2"),
        "x" if config.get("predict_x0", True) else "eps",
        order,
    )

    def change(rows):  # the recorder can leave out early corrections
        for step in config.get("disable_corrector", ()):
            rows["correction"] = rows["correction"].copy()
            rows["correction"][step + 1] = 0

    on_levels(case, sampler, *chain(case), case.a["states"], change=change)


def single(sampler):
    """Samplers without memory and with one state a step."""
    return lambda case: on_levels(case, sampler, *chain(case), case.a["states"])


def heun_on_grid(variable):
    """Stage values are recorded between the completed steps."""

    def replay(case):
        a, done = case.a, case.a["is_grid"]
        alpha, sigma = (
            np.append(a[f"{name}_eval"][done[:-1]], a[f"{name}_to"][-1])
            for name in LEVELS
        )
        on_levels(case, samplers.Heun(variable), alpha, sigma, a["states"][done])

    return replay


def dpm_2(case):
    a, done = case.a, case.a["is_grid"]
    sigma = np.append(a["sigma_eval"][done[:-1]], a["sigma_to"][-1])
    sampler = samplers.DPMSolver2S("eps")
    on_levels(case, sampler, np.ones_like(sigma), sigma, a["states"][done])


def lms(case):
    order = case.config.get("step_kwargs", {}).get("order", 4)
    sampler = samplers.AdamsBashforth(order, "eps")
    on_levels(case, sampler, *chain(case), case.a["states"])


def official(case):
    """The authors' DPM-Solver: it lowers the order at the end below 10 steps."""
    config, a = case.config, case.a
    form = "eps" if config["algorithm"] == "dpmsolver" else "x"
    second = "taylor" if config.get("solver_type") == "taylor" else "midpoint"
    alpha, sigma = a["alpha"], a["sigma"]
    if config["method"] == "multistep":
        order = config["order"]
        lower = config.get("lower_order_final", True) and config["steps"] < 10
        sampler = samplers.DPMSolver(
            order, form, second, "reference", order if lower else 0
        )
        states = a["states"]
        on_levels(case, sampler, alpha, sigma, states[: len(alpha)])
        if len(states) > len(alpha):  # it steps on to the data
            part = np.append(alpha[-1], 1.0), np.append(sigma[-1], 0.0)
            on_levels(case, samplers.ddim(), *part, states[-2:])
        return
    calls = 0
    for i, order in enumerate(a.get("orders", np.full(len(alpha) - 1, 2))):
        level = [
            np.append(a[f"eval_{name}"][calls : calls + order], a[name][i + 1])
            for name in LEVELS
        ]
        two_stages(case, form, second, *level, a["states"][i : i + 2])
        calls += order


def karras(make):
    """k-diffusion: `make(config)` is the sampler, in alpha = 1."""

    def replay(case):
        sigma = case.a["sigma_grid"]
        states = np.concatenate([case.a["callback_x"], case.a["final"][None]])
        on_levels(case, make(case.config), np.ones_like(sigma), sigma, states)

    return replay


def edm(case):
    """Without churn, EDM's sampler is Heun in "eps", on every schedule and scaling.

    The recorder's time is sigma where its schedule is "linear".
    """
    config, a = case.config, case.a
    name = "Euler" if config.get("solver") == "euler" else "Heun"
    sampler = getattr(samplers, name)("eps")
    sigma = a["sigma_grid"]
    on_levels(case, sampler, np.ones_like(sigma), sigma, a["states"])


IN_TIME = {
    "euler": samplers.Euler(),
    "midpoint": samplers.Midpoint(),
    "heun2": samplers.Heun(),
}


def in_time(name_of):
    """Solvers in the recorded time itself, which is ours reversed.

    Our Heun does not evaluate at sigma = 0; the recorders do, so there the last state
    differs.
    """

    def replay(case):
        a, schedule = case.a, named(case.config[name_of])
        t = 1 - a["t"]
        method = case.config.get("method", "euler")
        with jax.enable_x64(True):
            at_data = float(schedule.sigma(t[-1])) == 0
        last = len(t) - 1 if method == "heun2" and at_data else len(t)
        found = run(case, IN_TIME[method], a["states"][0], t[:last], schedule)
        np.testing.assert_allclose(found, a["states"][:last], rtol=1e-9, atol=1e-9)

    return replay


def fixed_step(case):
    h = case.config["step_size"]
    t = 1 - np.append(np.arange(0, 1, h), 1.0)
    schedule = named(case.config["scheduler"])
    found = run(case, samplers.Midpoint(), case.a["init_noise"], t, schedule)
    np.testing.assert_allclose(found[-1], case.a["final"], rtol=1e-9, atol=1e-9)


def plain_levels(sampler, tolerance=1e-9):
    return lambda case: on_levels(
        case, sampler, case.a["alpha"], case.a["sigma"], case.a["states"], tolerance
    )


def score_sde_euler(case):
    """Its grid is linspace(1, eps, N), but it advances by 1 / N."""
    a, schedule = case.a, named(case.config["sde"])
    starts = np.concatenate([a["after_corrector"][:1], a["states"][:-1]])
    for t, z, after in zip(a["t"], starts, a["states"], strict=True):
        found = run(case, samplers.Euler(), z, [t, t - 1 / case.config["N"]], schedule)
        np.testing.assert_allclose(found[1], after, rtol=1e-9, atol=1e-9)


def hackable_heun(case):
    """Completed states are the even ones; the last update, if odd, is Euler's."""
    a, schedule = case.a, named(case.config["schedule"])
    even, states = a["t"][::2], a["states"][::2]
    found = run(case, samplers.Heun(), states[0], even, schedule)
    np.testing.assert_allclose(found, states, rtol=1e-8, atol=1e-8)
    if len(a["t"]) % 2 == 0:
        found = run(case, samplers.Euler(), a["states"][-2], a["t"][-2:], schedule)
        np.testing.assert_allclose(found[1], a["states"][-1], rtol=1e-8, atol=1e-8)


def hackable_euler(case):
    schedule = named(case.config["schedule"])
    found = run(case, samplers.Euler(), case.a["states"][0], case.a["t"], schedule)
    np.testing.assert_allclose(found, case.a["states"], rtol=1e-8, atol=1e-8)


REPLAYS = {
    ("diffusers_dpmsolver", "multistep dpmsolver++"): dpm_multistep,
    ("diffusers_dpmsolver", "multistep dpmsolver"): dpm_multistep,
    ("diffusers_dpmsolver", "singlestep dpmsolver++"): dpm_singlestep,
    ("diffusers_dpmsolver", "singlestep dpmsolver"): dpm_singlestep,
    ("diffusers_unipc_deis", "unipc"): unipc,
    ("diffusers_unipc_deis", "deis (log-rho multistep)"): single(samplers.ddim()),
    ("diffusers_edm", "euler on the EDM grid"): single(samplers.Euler("eps")),
    ("diffusers_edm", "multistep dpmsolver++"): dpm_multistep,
    ("diffusers_flow", "euler on the flow ODE"): single(samplers.Euler("u")),
    ("diffusers_flow", "heun on the flow ODE"): heun_on_grid("u"),
    ("diffusers_flow", "multistep dpmsolver++"): dpm_multistep,
    ("diffusers_flow", "singlestep dpmsolver++"): dpm_singlestep,
    ("diffusers_flow", "unipc"): unipc,
    ("diffusers_sigma", "euler"): single(samplers.Euler("eps")),
    ("diffusers_sigma", "heun"): heun_on_grid("eps"),
    ("diffusers_sigma", "lms (order 3)"): lms,
    ("diffusers_sigma", "lms (order 4)"): lms,
    ("diffusers_sigma", "dpm_2 (geometric-midpoint in sigma)"): dpm_2,
    ("edm_sampler", "EDM Algorithm 2"): edm,
    ("edm_sampler", "EDM generalised (ablation) sampler"): edm,
    ("kdiffusion_sampler", "euler"): karras(lambda c: samplers.Euler("eps")),
    ("kdiffusion_sampler", "heun"): karras(lambda c: samplers.Heun("eps")),
    ("kdiffusion_sampler", "dpm_2"): karras(lambda c: samplers.DPMSolver2S("eps")),
    ("kdiffusion_sampler", "lms"): karras(
        lambda c: samplers.AdamsBashforth(c["order"], "eps")
    ),
    ("kdiffusion_sampler", "dpmpp_2m"): karras(lambda c: samplers.DPMSolver(2)),
    ("kdiffusion_sampler", "dpmpp_2m_sde"): karras(
        lambda c: samplers.DPMSolver(2, second="taylor")
    ),
    ("kdiffusion_sampler", "dpmpp_3m_sde"): karras(
        lambda c: samplers.DPMSolver(3, second="taylor", third="reference")
    ),
    **{
        ("flow_matching", f"{method} on the flow ODE"): in_time("scheduler")
        for method in ("euler", "midpoint", "heun2")
    },
    ("flow_matching", "midpoint with a fixed step size"): fixed_step,
    **{
        ("sit", f"{method} on the PF-ODE"): in_time("path")
        for method in ("euler", "midpoint", "heun2")
    },
    ("rectified_flow", "EulerSampler"): in_time("interp"),
    ("rectified_flow", "CurvedEulerSampler"): plain_levels(samplers.ddim()),
    (
        "score_sde",
        "predictor euler_maruyama (probability flow), corrector none",
    ): score_sde_euler,
    ("hackable_diffusion", "ddim"): plain_levels(samplers.ddim(), 1e-8),
    ("hackable_diffusion", "euler on the flow ODE"): hackable_euler,
    (
        "hackable_diffusion",
        "heun on the flow ODE (every second grid point)",
    ): hackable_heun,
    **{
        ("dpm_solver", f"{form} multistep order {order}"): official
        for form in ("dpmsolver", "dpmsolver++")
        for order in (1, 2, 3)
    },
    ("dpm_solver", "dpmsolver singlestep order 2"): official,
    ("dpm_solver", "dpmsolver++ singlestep order 2"): official,
    ("dpm_solver", "dpmsolver++ singlestep_fixed order 2"): official,
}


def shipped(case):
    """Whether a record of a method that is shipped in part can be replayed."""
    match case.family, case.config:
        case "diffusers_unipc_deis", {"scheduler": "DEISMultistepScheduler"}:
            return case.config["solver_order"] == 1
        case "diffusers_dpmsolver", _ if "order_list" in case.a:
            return case.a["order_list"].max() < 3
        case "edm_sampler", {"function": "ablation_sampler"}:
            return case.config.get("schedule", "linear") == "linear" and (
                case.config.get("scaling", "none") == "none"
                and "alpha" not in case.config
            )
    return (case.family, case.method) in REPLAYS


RECORDS = [
    case
    for family in FAMILIES
    for case in golden.cases(family=family)
    if case.kind.startswith("sampler") and "noise" not in case.a
]
REPLAYED = [case for case in RECORDS if shipped(case)]


def first_of_each():
    """The first record of each method, and the others as nightly tests."""
    met = set()
    for case in REPLAYED:
        known = (case.family, case.method) in met
        met.add((case.family, case.method))
        marks = [pytest.mark.nightly] if known else []
        yield pytest.param(case, id=f"{case.family}-{case.id}", marks=marks)


@pytest.mark.parametrize("case", list(first_of_each()))
def test_recorded_run(case):
    REPLAYS[case.family, case.method](case)


def test_every_record_is_replayed_or_named():
    left = {(case.family, case.method) for case in RECORDS if not shipped(case)}
    assert left == set(NOT_SHIPPED), left ^ set(NOT_SHIPPED)
