"""Interactive figure: parameters of weightings and training times, by log-SNR."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jax.typing import ArrayLike

from diffusionflow import objectives
from diffusionflow.objectives import Objective
from experiments.analysis import weights
from experiments.analysis.weights import Moved
from experiments.visualization.blocks import (
    Chart,
    Explorable,
    Over,
    Section,
    Slider,
    Trace,
    axis,
)
from experiments.visualization.explorables.base import line, texts

LOGSNR = np.linspace(-10.0, 10.0, 121)
BIASES = np.linspace(-4.0, 4.0, 9)
MEANS = np.array([-3.0, -2.4, -1.8, -1.2, -0.6, 0.0, 0.6])  # of log sigma
STDS = np.array([0.6, 0.9, 1.2, 1.5, 1.8, 2.1, 2.4])
LOGIT_MEANS = np.linspace(-1.5, 1.5, 7)
LOGIT_STDS = np.array([0.5, 0.75, 1.0, 1.25, 1.5, 2.0])

LEAD = (
    "What a recipe learns is its total weight on the eps-MSE at each log-SNR: its "
    "weighting times the density of its training times. Two recipes with the same "
    "total weight, up to a factor, are one objective, however they are written; the "
    "density then decides how noisy the loss is. After Kingma and Gao 2023, Karras et "
    "al. 2022 and Esser et al. 2024."
)


def flow_matching(unused: ArrayLike) -> Objective:
    """Returns the flow-matching objective, which no slider changes."""
    return objectives.flow_matching()


class Family(NamedTuple):
    """A family of objectives whose parameters are set by sliders.

    Fields:
      name: on the chart.
      objective_fn: from a number of each slider.
      sliders: their indices.
    """

    name: str
    objective_fn: Callable[..., Objective]
    sliders: tuple[int, ...]


FAMILIES = (
    Family("sigmoid", weights.sigmoid, (0,)),
    Family("EDM", weights.edm, (1, 2)),
    Family("SD3", objectives.sd3, (3, 4)),
)
SLIDERS = (
    (Slider("sigmoid: bias", texts(BIASES), start=4), BIASES),
    (Slider("EDM: mean of log sigma", texts(MEANS), start=3), MEANS),
    (Slider("EDM: standard deviation of it", texts(STDS), start=2), STDS),
    (Slider("SD3: mean of logit t", texts(LOGIT_MEANS), start=3), LOGIT_MEANS),
    (Slider("SD3: standard deviation of it", texts(LOGIT_STDS), start=2), LOGIT_STDS),
)


def section() -> Section:
    """Builds the section: total weights and densities of three families."""
    flow = weights.moved(flow_matching, LOGSNR, 0.0)
    dashed = {"line": {"dash": "dash", "width": 2}}
    total = [
        line(LOGSNR, weights.over_maximum(flow.total), "flow matching", -1, **dashed)
    ]
    trained = [line(LOGSNR, flow.density, "flow matching", -1, **dashed)]
    readout = []
    for group, (name, objective_fn, which) in enumerate(FAMILIES):
        places = np.ix_(*(SLIDERS[i][1] for i in which))
        moved = weights.moved(objective_fn, LOGSNR, *places)
        relative = weights.over_maximum(moved.total)
        total.append(line(LOGSNR, Over(which, relative), name, group))
        trained.append(line(LOGSNR, Over(which, moved.density), name, group))
        readout.append(Over(which, in_words(name, moved)))
    charts = (
        chart(
            "What is learned: the total weight",
            "Weight on the eps-MSE, each divided by its largest on this axis.",
            "weight",
            total,
        ),
        chart(
            "Where it is learned: the density of training times",
            "Probability density of the log-SNR of a training example. That of sigmoid "
            "is flow matching's.",
            "density",
            trained,
        ),
    )
    sliders = [slider for slider, _ in SLIDERS]
    return Section("Weighting", LEAD, [Explorable(sliders, charts, readout)])


def chart(title: str, caption: str, measure: str, data: list[Trace]) -> Chart:
    """Makes a chart of lines over the log-SNR."""
    layout = {"xaxis": axis("log-SNR, from noise to data"), "yaxis": axis(measure)}
    return Chart(title, caption, data, layout)


def in_words(name: str, moved: Moved) -> Any:
    """Says where a family's weight and times are, nested lists over its sliders."""
    if moved.median.ndim:
        return [in_words(name, Moved(*one)) for one in zip(*moved, strict=True)]
    peak = LOGSNR[np.argmax(moved.total)]
    where = "towards noise" if peak == LOGSNR[0] else f"at log-SNR {peak:.1f}"
    return (
        f"{name}: weight largest {where}, half of the times above {moved.median:.1f}."
    )
