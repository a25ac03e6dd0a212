"""Interactive figures with sliders, every place of which the library computes."""

from collections.abc import Callable

from experiments.visualization.blocks import Section
from experiments.visualization.explorables import (
    churn,
    inverse_problem,
    reflow,
    sampler_steps,
    scaling,
    weighting,
)

SECTIONS: tuple[Callable[[], Section], ...] = tuple(
    each.section
    for each in (scaling, churn, weighting, reflow, sampler_steps, inverse_problem)
)
