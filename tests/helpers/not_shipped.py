"""Recorded methods that no sampler of ours makes: bugs of their libraries.

Why each is one, `docs/samplers.md` says too. A rule holds for every record of its
library that says so, whatever its name.
"""

import dataclasses
from typing import Any

from tests.helpers.golden_samplers import library, said


class Above:
    """Numbers above a bound."""

    def __init__(self, bound):
        self.bound = bound

    def __contains__(self, value):
        return isinstance(value, int | float) and value > self.bound

    def __str__(self):
        return f"above {self.bound}"


@dataclasses.dataclass(frozen=True, eq=False)
class Rule:
    """Why some records are not replayed.

    Args:
      library: that made them.
      settings: what `said` finds in them: a value, or `Above`.
      why: in words.
    """

    library: str
    settings: dict[str, Any]
    why: str

    def __str__(self):
        return ", ".join(f"{name} {value}" for name, value in self.settings.items())

    def holds(self, case):
        if library(case) != self.library:
            return False
        found = said(case)
        return all(
            found.get(name) in value
            if isinstance(value, Above)
            else found.get(name) == value
            for name, value in self.settings.items()
        )


RULES = (
    Rule(
        "hackable_diffusion",
        dict(method="adjusted ddim AS WRITTEN IN THE PEER"),
        "alpha of where the step starts: the last of five is 0.951 x_hat + 0.134 "
        "eps_hat, at alpha = 1",
    ),
)
# of the same libraries; no record that is shipped has them
MORE = (
    Rule(
        "diffusers",
        dict(scheduler="FlowMatchHeunDiscreteScheduler", s_churn=Above(0)),
        "noise is added without a factor of the data: raised from 0.5 to 0.707, z has "
        "alpha 0.5 where the flow has 0.293",
    ),
)
REASONS = {(rule.library, str(rule)): rule.why for rule in (*RULES, *MORE)}


def rule_of(case):
    """The first rule that holds for a record; None for one to be replayed."""
    return next((rule for rule in (*RULES, *MORE) if rule.holds(case)), None)
