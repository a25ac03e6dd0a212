"""Interactive figure: stochastic sampling by churn, weights and particle paths."""

import numpy as np

from diffusionflow import schedules
from experiments.analysis import gaussian_trajectories, sampler_error, weights
from experiments.analysis.weights import ChurnWeights
from experiments.visualization.blocks import (
    Chart,
    Explorable,
    Over,
    Section,
    Slider,
    axis,
)
from experiments.visualization.explorables.base import (
    line,
    particles_as_line,
    texts,
    words,
)

CHURNS = np.linspace(0.0, 0.9, 10)
STEPS = (5, 20, 100)
CHURN, STEP = 0, 1  # sliders
STARTS = np.linspace(-2.0, 2.0, 9)
TIME = {"range": [1.02, -0.02]}

LEAD = (
    "A sampler of this family takes a DDIM step that is too long and undoes a part of "
    "it, the churn, with noise. Churn 0 is DDIM, 1/2 is DDPM, and near 1 the first "
    "noise and the early predictions are forgotten. On the cosine schedule; after Gao "
    "et al. 2024, Diffusion Meets Flow Matching."
)


def section() -> Section:
    """Builds the section: weights of the predictions, and paths of particles."""
    churned = [weights.churn_weights(CHURNS, n) for n in STEPS]
    say = lambda i, j: (
        f"Churn {CHURNS[i]:.1f}, {STEPS[j]} steps: half of the weight is on the last "
        f"{late_half(-churned[j].h[i]):.0%} of the predictions; the first noise enters "
        f"with weight {churned[j].initial[i]:.2g}."
    )
    sliders = (
        Slider("churn: the part of a step that is undone", texts(CHURNS), start=2),
        Slider("number of steps", texts(STEPS), start=1),
    )
    readout = [words(say, len(CHURNS), len(STEPS))]
    block = Explorable(sliders, (weighed(churned), moving()), readout)
    return Section("Churn", LEAD, [block])


def late_half(weight: np.ndarray) -> float:
    """Returns the fraction of predictions, the last ones, with half of the weight."""
    from_last = np.cumsum(weight[::-1]) / weight.sum()
    return float((np.searchsorted(from_last, 0.5) + 1) / len(weight))


def weighed(churned: list[ChurnWeights]) -> Chart:
    """Draws the weights of the predictions of v, for each number of steps."""
    x = Over((STEP,), [one.t for one in churned])
    y = Over((STEP, CHURN), [-one.h for one in churned])
    marked = {"mode": "lines+markers", "marker": {"size": 4}}
    return Chart(
        "What a sample is made of",
        "Weights -h_i of the predictions in z_0 = h z_1 + sum of h_i v_i + noise, "
        "against the time of the prediction.",
        [line(x, y, "weight of v", 0, **marked)],
        {
            "xaxis": axis("t, from noise to data", **TIME),
            "yaxis": axis("weight", rangemode="tozero"),
            "showlegend": False,
        },
    )


def moving() -> Chart:
    """Draws paths of particles, with the same noise at every churn."""
    paths = lambda num_steps: gaussian_trajectories.trajectories(
        CHURNS,
        sampler_error.mixture(),
        schedule=schedules.Cosine(),
        num_steps=num_steps,
        starts=STARTS,
    )
    runs = [particles_as_line(*paths(n)) for n in STEPS]
    x = Over((STEP,), [x for x, _ in runs])
    y = Over((STEP, CHURN), [y for _, y in runs])
    return Chart(
        "Particles of a mixture",
        "Nine starts, the exact denoiser, the same noise at every churn. The modes of "
        "the data are at -2, 0.5 and 3.",
        [line(x, y, "particles", 2, line={"width": 1.2})],
        {
            "xaxis": axis("t, from noise to data", **TIME),
            "yaxis": axis("z", range=[-4, 4]),
            "showlegend": False,
        },
    )
