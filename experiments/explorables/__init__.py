"""Figures with sliders: every place of every slider is computed by the library."""

from collections.abc import Callable

from experiments.explorables import churn, scaling, steps, weighting
from experiments.page import Section

SECTIONS: tuple[Callable[[], Section], ...] = tuple(
    each.section for each in (scaling, churn, weighting, steps)
)
