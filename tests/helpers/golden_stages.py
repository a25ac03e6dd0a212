"""Recorded runs of samplers with recorded stages, or with a clock of their own."""

import jax
import numpy as np

from diffusionflow import samplers
from tests.helpers.golden_runs import Levels, close, on_levels, run, times
from tests.helpers.golden_samplers import ablation_schedule, levels, said, second_order

FORMS = {"dpmsolver": "eps", "dpmsolver++": "x"}


def singlestep(case):
    """diffusers: the states are all stages, and the orders are those of its list."""
    settings, (alpha, sigma) = said(case), levels(case)
    second = second_order(case)
    sampler = samplers.DPMSolverSinglestep(
        settings["solver_order"],
        case.choose("algorithm_type", FORMS, "dpmsolver++"),
        second,
        second,
        case.config.get("lower_order_final", False),
    )
    grid = times(alpha)
    rows = sampler.plan(grid[:-1], grid[1:], Levels(alpha, sigma))
    np.testing.assert_array_equal(rows["first"], case.a["order_list"] == 1)
    on_levels(case, sampler, alpha, sigma, case.a["states"])


def official_singlestep(case):
    """The authors' code: states are those of completed blocks, calls all stages."""
    settings, a = said(case), case.a
    alpha, sigma = (
        np.append(a[f"eval_{name}"], a[name][-1]) for name in ("alpha", "sigma")
    )
    count = len(a["alpha"])
    orders = a.get("orders", np.full(count - 1, settings["order"]))
    fast = settings["method"] == "singlestep" and settings["order"] == 3
    sampler = samplers.DPMSolverSinglestep(
        settings["order"],
        case.choose("algorithm", FORMS, "dpmsolver++"),
        second_order(case),
        lower_final=fast,
    )
    blocks(case, sampler, alpha, sigma, orders, a["states"][:count])


def dpm_fast(case):
    """k-diffusion: uniform blocks in log sigma, to the last level."""
    a = case.a
    sigma = np.append(a["eval_sigma"], case.config["sigma_min"])
    states = np.concatenate([a["callback_x"], a["final"][None]])
    sampler = samplers.DPMSolverSinglestep(3, "eps", "midpoint")
    orders = orders_of_fast(case.config["nfe"])
    blocks(case, sampler, np.ones_like(sigma), sigma, orders, states)


def orders_of_fast(nfe):
    """Orders of the blocks of "DPM-Solver fast"."""
    blocks_of_3, rest = divmod(nfe, 3)
    return [3] * blocks_of_3 + [rest] if rest else [3] * (blocks_of_3 - 1) + [2, 1]


def blocks(case, sampler, alpha, sigma, orders, states):
    """States at the ends of blocks of these orders."""
    schedule = Levels(alpha, sigma)
    grid = times(schedule.alphas)
    check_blocks(sampler.plan(grid[:-1], grid[1:], schedule), orders)
    found = run(case, sampler, states[0], grid, schedule)
    close(found[np.append(0, np.cumsum(orders))], states)


def check_blocks(rows, orders):
    """Blocks of a plan begin where the recorded ones do."""
    places = np.concatenate([np.arange(order) for order in orders])
    np.testing.assert_array_equal(rows["first"], places == 0)


def pndm(case):
    """diffusers: warm-up by Heun's method (PLMS) or in four stages (PNDM).

    Levels that it aims at are those of its next calls; the middle of a Runge-Kutta step
    in time is a level of its own, so every second level of the schedule is one.
    """
    a, skip = case.a, said(case)["skip_prk_steps"]
    count = len(a["alpha_eval"])
    warm = [0] if skip else [0, 4, 8]
    after = 2 if skip else 12
    starts = warm + list(range(after, count))
    chain, middles = [], []
    for name in ("alpha", "sigma"):
        level = np.append(a[f"{name}_eval"][starts], a[f"{name}_to"][-1])
        middle = np.sqrt(level[1:] * level[:-1])
        if not skip:
            middle[: len(warm)] = a[f"{name}_eval"][np.array(warm) + 1]
        chain.append(level)
        middles.append(middle)
    both = [
        np.insert(x, range(1, len(x)), y) for x, y in zip(chain, middles, strict=True)
    ]
    schedule = Levels(*both)
    sampler = samplers.PNDM(4, "heun" if skip else "runge_kutta")
    states = a["states"][[*starts, count]]
    close(run(case, sampler, states[0], times(both[0])[::2], schedule), states)


def edm(case):
    """EDM's sampler and its ablations without churn.

    In times that are not sigma the recorder adds noise by the rounding of its maps.
    """
    settings, sigma = said(case), case.a["sigma_grid"]
    schedule = ablation_schedule(case)
    stages = case.choose("solver", {"euler": 1, "heun": 2}, "heun")
    place = float(settings["alpha"]) if stages == 2 else 1.0
    sampler = samplers.EDM(stages=stages, variable=schedule.variable, place=place)
    states = case.a["states"]
    if schedule.variable == "eps":
        return on_levels(case, sampler, np.ones_like(sigma), sigma, states)
    with jax.enable_x64(True):
        grid = np.asarray(schedule.time(sigma))
    return close(run(case, sampler, states[0], grid, schedule), states, 1e-6)
