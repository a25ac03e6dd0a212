"""Recorded methods that no sampler of ours makes, and why: `docs/samplers.md`.

A rule holds for every record of its library that says so, whatever its name.
"""

import dataclasses
from typing import Any

from tests.helpers.golden_samplers import library, said

OWN_CONTROL = "an adaptive step size of the recorder's own"
SOLVE = "an adaptive solver: `samplers.solve` has its own step control"
TWO_STAGES = "a single-step SDE solver with two stages"
ADAMS = "Adams-Bashforth of an order above 4"


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


DIFFUSERS = rules(
    "diffusers",
    (
        dict(
            scheduler="DPMSolverSinglestepScheduler",
            algorithm_type="sde-dpmsolver++",
            orders=Above(1),
        ),
        TWO_STAGES,
    ),
)
DPM_SOLVER = rules("dpm_solver", (dict(method="adaptive"), OWN_CONTROL))
KDIFFUSION = rules(
    "kdiffusion_sampler",
    (
        dict(function="sample_dpm_fast", eta=Above(0)),
        "single-step orders 3, 3, ..., 2 or 1 with noise",
    ),
)
RECTIFIED_FLOW = rules(
    "rectified_flow",
    (dict(sampler="SDESampler"), "noise bounded by the level, then an ODE step"),
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
)
RULES = (
    *DIFFUSERS,
    *DPM_SOLVER,
    *rules("flow_matching", (dict(kind="sampler_adaptive"), SOLVE)),
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
    *rules(
        "score_sde",
        (
            dict(corrector="langevin"),
            "Langevin steps whose length depends on the whole batch",
        ),
    ),
    *rules("kdiffusion_sampler", (dict(function="sample_lms", order=Above(4)), ADAMS)),
)
REASONS = {(rule.library, str(rule)): rule.why for rule in (*RULES, *MORE)}


def rule_of(case):
    """The first rule that holds for a record; None for one to be replayed."""
    return next((rule for rule in (*RULES, *MORE) if rule.holds(case)), None)
