"""Recorded methods that no sampler of ours makes, and why: `docs/samplers.md`.

A rule holds for every record of its library that says so, whatever its name.
"""

import dataclasses
from typing import Any

from tests.helpers.golden_samplers import library, said

SINGLE_3 = "the single-step method of order 3 is not shipped"
OWN_CONTROL = "an adaptive step size of the recorder's own"
SOLVE = "an adaptive solver: `samplers.solve` has its own step control"
TWO_STAGES = "a single-step SDE solver with two stages"
CONSTANT = "replaces a share of the noise that does not depend on the step"
CLOCK = "steps in the time of EDM's vp and ve formulations"
ADAMS = "Adams-Bashforth of an order above 4"
ODE_3 = "Heun's method of order 3"
THREE_EIGHTHS = "the 3/8 rule; ours is the classical one"


class Above:
    """Numbers above a bound."""

    def __init__(self, bound):
        self.bound = bound

    def __contains__(self, value):
        return isinstance(value, int | float) and value > self.bound

    def __str__(self):
        return f"above {self.bound}"


class Other:
    """All that is none of these."""

    def __init__(self, *values):
        self.values = values

    def __contains__(self, value):
        return value is not None and value not in self.values

    def __str__(self):
        return f"other than {' or '.join(map(str, self.values))}"


@dataclasses.dataclass(frozen=True, eq=False)
class Rule:
    """Why some records are not replayed.

    Args:
      library: that made them.
      settings: what `said` finds in them: a value, or a container of values.
      why: in words.
    """

    library: str
    settings: dict[str, Any]
    why: str

    def __str__(self):
        return ", ".join(
            f"{name} {' or '.join(value) if isinstance(value, tuple) else value}"
            for name, value in self.settings.items()
        )

    def holds(self, case):
        if library(case) != self.library:
            return False
        found = said(case)
        return all(
            found.get(name) in value
            if isinstance(value, tuple | Above | Other)
            else found.get(name) == value
            for name, value in self.settings.items()
        )


def rules(library, *settings_and_reasons):
    return tuple(Rule(library, *each) for each in settings_and_reasons)


SINGLE, PNDM = "DPMSolverSinglestepScheduler", "PNDMScheduler"
DIFFUSERS = rules(
    "diffusers",
    (dict(scheduler=PNDM, skip_prk_steps=True), "visits the second time twice"),
    (dict(scheduler=PNDM, skip_prk_steps=False), "pseudo Runge-Kutta"),
    (dict(algorithm_type="sde-dpmsolver"), "SDE solver on eps"),
    (
        dict(scheduler=SINGLE, algorithm_type="sde-dpmsolver++", orders=Above(1)),
        TWO_STAGES,
    ),
    (dict(scheduler=SINGLE, orders=Above(2)), SINGLE_3),
    (dict(stochastic_sampling=True), "all noise replaced: churn = 1"),
    (dict(scheduler="SASolverScheduler"), "stochastic Adams with a corrector"),
)
DPM_SOLVER = rules(
    "dpm_solver",
    (dict(method="adaptive"), OWN_CONTROL),
    (dict(method=("singlestep", "singlestep_fixed"), orders=Above(2)), SINGLE_3),
)
ABLATION = "ablation_sampler"
EDM = rules(
    "edm_sampler",
    (dict(function=ABLATION, schedule=Other("linear")), CLOCK),
    (
        dict(function=ABLATION, solver="heun", alpha=Other(1)),
        "a second stage elsewhere than at the end of the step",
    ),
)
KDIFFUSION = rules(
    "kdiffusion_sampler",
    (dict(function="sample_dpm_adaptive"), OWN_CONTROL),
    (dict(function="sample_dpm_fast"), "single-step orders 3, 3, ..., 2 or 1"),
)
RECTIFIED_FLOW = rules(
    "rectified_flow",
    (dict(sampler="NoiseRefreshSampler"), CONSTANT),
    (
        dict(sampler="OverShootingSampler"),
        "noise in proportion to the step in time",
    ),
    (dict(sampler="SDESampler"), "noise bounded by the level, then an ODE step"),
    (
        dict(
            sampler="StochasticCurvedEulerSampler",
            noise_replacement_rate=Other("ddpm"),
        ),
        CONSTANT,
    ),
)
SCORE_SDE = rules(
    "score_sde",
    (dict(kind="sampler_adaptive"), SOLVE),
    (
        dict(predictor="reverse_diffusion", probability_flow=True),
        "the discrete DDPM and SMLD updates without noise, not a solver of the ODE",
    ),
    (dict(predictor="reverse_diffusion"), "discretised forward steps"),
    (dict(predictor="ancestral_sampling"), "levels by truncated indices"),
    (dict(predictor="euler_maruyama", corrector=Other("none")), "Langevin corrector"),
)
RULES = (
    *DIFFUSERS,
    *DPM_SOLVER,
    *EDM,
    *rules(
        "flow_matching",
        (dict(kind="sampler_adaptive"), SOLVE),
        (dict(method="heun3"), ODE_3),
        (dict(method="rk4"), THREE_EIGHTHS),
    ),
    *rules(
        "hackable_diffusion",
        (
            dict(method="adjusted ddim AS WRITTEN IN THE PEER"),
            "a bug: alpha of the wrong time",
        ),
        (dict(stoch_coeff=Other(0, 1)), "k linear in q: no eta of its module"),
    ),
    *KDIFFUSION,
    *RECTIFIED_FLOW,
    *SCORE_SDE,
    *rules("sit", (dict(kind="sampler_adaptive"), SOLVE)),
)
# of the same libraries; no record that is shipped has them
MORE = (
    *rules(
        "diffusers",
        (dict(scheduler="LMSDiscreteScheduler", order=Above(4)), ADAMS),
        (
            dict(scheduler="FlowMatchHeunDiscreteScheduler", s_churn=Above(0)),
            "the network is called before the noise, and again after it",
        ),
    ),
    *rules("edm_sampler", (dict(function=ABLATION, scaling=Other("none")), CLOCK)),
    *rules("kdiffusion_sampler", (dict(function="sample_lms", order=Above(4)), ADAMS)),
    *rules("sit", (dict(method="heun3"), ODE_3), (dict(method="rk4"), THREE_EIGHTHS)),
)
REASONS = {(rule.library, str(rule)): rule.why for rule in (*RULES, *MORE)}


def rule_of(case):
    """The first rule that holds for a record; None for one to be replayed."""
    return next((rule for rule in (*RULES, *MORE) if rule.holds(case)), None)
