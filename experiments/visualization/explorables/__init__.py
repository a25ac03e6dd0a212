"""Figures with sliders: every place of every slider is computed by the library."""

from collections.abc import Callable

from experiments.visualization.blocks import Section
from experiments.visualization.explorables import (
    churn,
    sampler_steps,
    scaling,
    weighting,
)

SECTIONS: tuple[Callable[[], Section], ...] = tuple(
    each.section for each in (scaling, churn, weighting, sampler_steps)
)
