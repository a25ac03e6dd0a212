"""Interactive figure: reflow of a mixture, paths and errors by Euler steps."""

import numpy as np

from experiments.analysis import reflow, sampler_error
from experiments.analysis.reflow import Model
from experiments.visualization.blocks import (
    MARKERS,
    Chart,
    Explorable,
    Over,
    Section,
    Slider,
    axis,
)
from experiments.visualization.explorables.base import (
    POWERS,
    line,
    particles_as_line,
    words,
)

NAMES = ("none", "one", "two")
PAIRS: tuple[int | None, ...] = (1, 2, 4, 8, 16, 64, None)  # Euler steps; None: exact
STEPS = (1, 2, 3, 4, 8, 16, 32, 64)
REFLOW, PAIR, STEP = 0, 1, 2  # sliders
STARTS = np.linspace(-2.0, 2.0, 9)
LEAST = 1e-4  # what the axis of errors shows
SHOWN = slice(None, None, 8)  # of the times of bent paths

LEAD = (
    "A flow learned from independent pairs has bent paths, so that few Euler steps go "
    "wrong: one step ends at the mean of the data. Reflow trains again on pairs of "
    "noise and the model's own sample of it. In one dimension these pairs are in "
    "order, so their lines do not cross, and the new flow is these lines: straight "
    "after one reflow, and left as it is by the next. Straight is not right: the model "
    "keeps the error of the steps that drew its pairs. After Liu et al. 2022, Flow "
    "Straight and Fast."
)


def section() -> Section:
    """Builds the section: paths of particles, and errors by the number of steps."""
    first = reflow.before(sampler_error.mixture())
    models = [reflow.reflow(first, steps) for steps in PAIRS]
    same = [reflow.euler(first, n) for n in STEPS]
    paths = [[same] * len(PAIRS)] + [
        [[reflow.euler(at[i], n) for n in STEPS] for at in models]
        for i in range(1, len(NAMES))
    ]
    ends = first.paths[-1]  # quantiles of the data
    errors = np.array(
        [[[reflow.distance(z[-1], ends) for z in at] for at in one] for one in paths]
    )
    straightness = np.array([[model.straightness for model in at] for at in models])
    say = lambda i, j, k: (
        f"{_said(i, j)}: the straightness of the paths is {straightness[j, i]:.3g}, "
        f"and {STEPS[k]} Euler step{'s' * (STEPS[k] > 1)} "
        f"end{'s' * (STEPS[k] == 1)} at a Wasserstein-2 distance of "
        f"{errors[i, j, k]:.4f} from the data."
    )
    sliders = (
        Slider("reflows", NAMES, start=1, named=True),
        Slider("Euler steps that draw a pair", _labels(), start=PAIRS.index(8)),
        Slider("Euler steps of the sampler", [str(n) for n in STEPS], start=1),
    )
    readout = [words(say, len(NAMES), len(PAIRS), len(STEPS))]
    block = Explorable(sliders, (moving(models, paths), against_steps(errors)), readout)
    return Section("Reflow", LEAD, [block])


def _labels() -> list[str]:
    return ["exact" if steps is None else str(steps) for steps in PAIRS]


def _said(i: int, j: int) -> str:
    """Says which model it is."""
    if i == 0:
        return "Before reflow"
    count = PAIRS[j]
    pairs = f"pairs of {count} Euler step{'s' * (count != 1)}"
    if count is None:
        pairs = "exact pairs"
    return f"After {NAMES[i]} reflow{'s' * (i > 1)}, {pairs}"


def moving(models: list[list[Model]], paths: list[list[list[np.ndarray]]]) -> Chart:
    """Draws particles: the flow of the model, and Euler's method on it.

    Args:
      models: by pairs and reflows.
      paths: of Euler's method, by reflows, pairs and steps.
    """
    place = np.searchsorted(reflow.noise(), STARTS)
    fine = [
        [
            particles_as_line(*_thinned(at[i].times, at[i].paths[:, place]))
            for at in models
        ]
        for i in range(len(NAMES))
    ]
    coarse = [
        [
            [particles_as_line(_times(z), z[:, place]) for z in by_steps]
            for by_steps in by_pairs
        ]
        for by_pairs in paths
    ]
    x, y = ([[each[part] for each in one] for one in fine] for part in (0, 1))
    times = [each[0] for each in coarse[0][0]]
    states = [[[each[1] for each in at] for at in one] for one in coarse]
    flow = Over((REFLOW, PAIR), x), Over((REFLOW, PAIR), y)
    euler = Over((STEP,), times), Over((REFLOW, PAIR, STEP), states)
    marker = {"mode": "lines+markers", "marker": {"size": 6}}
    return Chart(
        "Particles from noise to data",
        "Nine starts. The modes of the data are at -2, 0.5 and 3.",
        [
            line(*flow, "flow of the model", -1, line={"width": 1.2}),
            line(*euler, "Euler's method", 0, **marker),
        ],
        {
            "xaxis": axis("t, from noise to data", range=[1.02, -0.02]),
            "yaxis": axis("z", range=[-4, 4]),
        },
    )


def _thinned(t: np.ndarray, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Takes some times of a fine path, and both of a line."""
    return (t, z) if len(t) == 2 else (t[SHOWN], z[SHOWN])


def _times(z: np.ndarray) -> np.ndarray:
    return np.linspace(1.0, 0.0, len(z))


def against_steps(errors: np.ndarray) -> Chart:
    """Draws errors of Euler's method against its steps, and marks the one chosen.

    Args:
      errors: by reflows, pairs and steps.
    """
    shown = np.maximum(errors, LEAST)
    looks = ("no reflow", "one reflow", "two reflows")
    styles = ({}, {"width": 5}, {"dash": "dot"})
    data = []
    for i, (name, style) in enumerate(zip(looks, styles, strict=True)):
        y = shown[0, 0] if i == 0 else Over((PAIR,), shown[i])
        marks = {"mode": "lines+markers", "marker": {"size": 6, "symbol": MARKERS[i]}}
        data.append(line(STEPS, y, name, i, **marks, line={"width": 2} | style))
    ring = {"size": 16, "symbol": "circle-open"}
    place = Over((STEP,), [[n] for n in STEPS])
    here = Over((REFLOW, PAIR, STEP), shown[..., None])
    data.append(line(place, here, "here", -1, mode="markers", marker=ring))
    return Chart(
        "Error against the steps of the sampler",
        "Wasserstein-2 distance of the samples to the data; what is below 1e-4 is "
        "drawn there.",
        data,
        {
            "xaxis": axis("Euler steps", type="log", **POWERS),
            "yaxis": axis("distance", type="log", **POWERS),
        },
    )
