"""Interactive figure: an inverse problem, its exact posterior and three methods."""

from typing import Any

import jax
import numpy as np

from diffusionflow._numeric import in_float64
from experiments.analysis import inverse_toy
from experiments.analysis.inverse_toy import METHODS, Posterior
from experiments.visualization.blocks import (
    Chart,
    Explorable,
    Over,
    Section,
    Slider,
    Trace,
    axis,
)
from experiments.visualization.explorables.base import line, texts, words

MEASURED = np.linspace(-1.6, 1.6, 9)
STDS = (0.1, 0.3, 1.0)
METHOD, Y, STD = 0, 1, 2  # sliders
SHOWN = 120  # points of each law in the plane
EDGES = np.linspace(-2.2, 2.2, 56)

LEAD = (
    "The data are four modes in a plane, and the first coordinate is measured with "
    "noise: what is the second one? The posterior is known, a mixture with two or more "
    "modes. The methods change the denoiser by an estimate of the likelihood of what "
    "was measured, and take 100 steps. DPS is overconfident: it takes x_hat for the "
    "data. PiGDM and MMPS allow for what z leaves open."
)


def section() -> Section:
    """Builds the section: samples in the plane, and laws of the hidden coordinate."""
    exact = [[inverse_toy.posterior(y, std) for std in STDS] for y in MEASURED]
    found = np.array(
        [
            [[inverse_toy.samples(name, y, std) for std in STDS] for y in MEASURED]
            for name in METHODS
        ]
    )
    names = list(METHODS)

    def say(i: int, j: int, k: int) -> str:
        law, x = exact[j][k].hidden, found[i, j, k]
        mean = float(np.asarray(law.weights) @ np.asarray(law.means))
        return (
            f"Measured {MEASURED[j]:.2g} with noise {STDS[k]:g}. "
            f"{names[i].split(':')[0]}: NFE {inverse_toy.nfe(names[i])}, mean of the "
            f"hidden coordinate {x[:, 1].mean():.2f} (exact {mean:.2f}), Wasserstein-2 "
            f"distance to its law {inverse_toy.distance(x, exact[j][k]):.2f}."
        )

    sliders = (
        Slider("method", names, named=True),
        Slider("measured first coordinate", texts(MEASURED), len(MEASURED) // 2),
        Slider("noise of the measurement", texts(STDS), start=1),
    )
    readout = [words(say, len(names), len(MEASURED), len(STDS))]
    charts = (plane(exact, found), hidden(exact, found))
    block = Explorable(sliders, charts, readout)
    return Section("An inverse problem", LEAD, [block])


def plane(exact: list[list[Posterior]], found: np.ndarray) -> Chart:
    """Draws samples of the prior, of the posterior and of the method."""
    data = np.asarray(inverse_toy.prior().sample(jax.random.key(2), (4 * SHOWN,)))
    of_exact = np.array([[each.x[:SHOWN] for each in row] for row in exact])
    ends = np.broadcast_to(MEASURED[:, None], (len(MEASURED), 2))
    small: Trace = {"size": 3, "opacity": 0.5}
    ring: Trace = {"size": 7, "symbol": "circle-open"}

    def dots(x: Any, y: Any, name: str, group: int, marker: Trace) -> Trace:
        return line(x, y, name, group, mode="markers", marker=marker)

    def of_law(values: np.ndarray, *sliders: int) -> tuple[Over, Over]:
        return Over(sliders, values[..., 0]), Over(sliders, values[..., 1])

    return Chart(
        "In the plane",
        f"{SHOWN} samples of the method and of the exact posterior, over samples of "
        "the data. The line is what was measured.",
        [
            dots(data[:, 0], data[:, 1], "data", -1, small),
            dots(*of_law(of_exact, Y, STD), "posterior", 1, ring),
            dots(
                *of_law(found[..., :SHOWN, :], METHOD, Y, STD), "method", 0, {"size": 5}
            ),
            line(Over((Y,), ends), [-2.2, 2.2], "measured", -1, line={"dash": "dash"}),
        ],
        {
            "xaxis": axis("measured coordinate", range=[-2.4, 2.4]),
            "yaxis": axis("hidden coordinate", range=[-2.2, 2.2]),
        },
    )


def hidden(exact: list[list[Posterior]], found: np.ndarray) -> Chart:
    """Draws the density of the hidden coordinate, exact and by the method."""
    middle, width = (EDGES[1:] + EDGES[:-1]) / 2, EDGES[1] - EDGES[0]
    density = lambda data, x: np.exp(
        in_float64(lambda data, x: data.log_density(x, 1.0, 0.0), data, x)
    )
    curves = [[density(each.hidden, middle) for each in row] for row in exact]
    share = lambda x: np.histogram(x[:, 1], EDGES)[0] / width / len(x)
    of_method = [[[share(x) for x in row] for row in of] for of in found]
    steps: Trace = {"line": {"shape": "hvh", "width": 1.5}, "fill": "tozeroy"}
    return Chart(
        "The hidden coordinate",
        f"Histogram of {inverse_toy.NUM_SAMPLES:,} samples of the method, and the "
        "density of the exact posterior.",
        [
            line(middle, Over((METHOD, Y, STD), of_method), "method", 0, **steps),
            line(middle, Over((Y, STD), curves), "posterior", 1),
        ],
        {
            "xaxis": axis("hidden coordinate"),
            "yaxis": axis("density", range=[0, 2.2]),
        },
    )
