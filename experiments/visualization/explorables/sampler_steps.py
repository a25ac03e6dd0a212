"""Interactive figure: samples of a mixture by each sampler, and errors against NFE."""

import numpy as np

from diffusionflow import analytic
from diffusionflow._numeric import in_float64
from experiments.analysis import sampler_error
from experiments.analysis.sampler_error import SAMPLERS, Samples
from experiments.visualization.blocks import (
    MARKERS,
    Chart,
    Explorable,
    Over,
    Section,
    Slider,
    axis,
)
from experiments.visualization.explorables.base import POWERS, line, words

STEPS = (3, 5, 8, 12, 20, 40, 80)
SAMPLER, STEP = 0, 1  # sliders
EDGES = np.linspace(-3.2, 3.6, 86)

LEAD = (
    "Samples of a mixture with its exact denoiser, so that all of the error is the "
    "sampler's, and for DDPM that of a finite sample. Starts are quantiles of the "
    "prior. Methods of higher order win with many steps, and can lose with few."
)


def section() -> Section:
    """Builds the section: densities of samples, and errors of all samplers."""
    data = sampler_error.mixture()
    runs = [
        sampler_error.runs_against_nfe(sampler, data, num_steps=STEPS)
        for sampler in SAMPLERS.values()
    ]
    names = list(SAMPLERS)
    say = lambda i, j: (
        f"{names[i]}, {STEPS[j]} steps: NFE {runs[i][j].nfe}, Wasserstein-2 distance "
        f"to the data {runs[i][j].error:.3g}."
    )
    sliders = (
        Slider("sampler", names, named=True),
        Slider("number of steps", [str(n) for n in STEPS], start=1),
    )
    readout = [words(say, len(names), len(STEPS))]
    charts = (densities(data, runs), errors(names, runs))
    block = Explorable(sliders, charts, readout)
    return Section("Samplers and their steps", LEAD, [block])


def densities(data: analytic.Mixture, runs: list[list[Samples]]) -> Chart:
    """Draws the histogram of the samples and the density of the data."""
    middle = (EDGES[1:] + EDGES[:-1]) / 2
    log_density = lambda data, x: data.log_density(x, 1.0, 0.0)
    exact = np.exp(in_float64(log_density, data, middle))
    width, count = EDGES[1] - EDGES[0], sampler_error.NUM_STARTS
    histograms = [
        [np.histogram(run.x, EDGES)[0] / width / count for run in of] for of in runs
    ]
    steps = {"line": {"shape": "hvh", "width": 1.5}, "fill": "tozeroy"}
    return Chart(
        "Density of the samples",
        f"Of {count:,} samples, and that of the data.",
        [
            line(middle, Over((SAMPLER, STEP), histograms), "samples", 0, **steps),
            line(middle, exact, "data", -1),
        ],
        {
            "xaxis": axis("x"),
            "yaxis": axis("density", range=[0, 1.1]),
        },
    )


def errors(names: list[str], runs: list[list[Samples]]) -> Chart:
    """Draws the error of every sampler and marks the one chosen."""
    shown = [
        line(
            [run.nfe for run in of],
            [run.error for run in of],
            name,
            group,
            mode="lines+markers",
            marker={"size": 6, "symbol": MARKERS[group]},
        )
        for group, (name, of) in enumerate(zip(names, runs, strict=True))
    ]
    place = Over((SAMPLER, STEP), [[[run.nfe] for run in of] for of in runs])
    error = Over((SAMPLER, STEP), [[[run.error] for run in of] for of in runs])
    ring = {"size": 16, "symbol": "circle-open"}
    shown.append(line(place, error, "here", -1, mode="markers", marker=ring))
    return Chart(
        "Error against NFE",
        "Wasserstein-2 distance of the samples to the data, against the number of "
        "function evaluations (NFE).",
        shown,
        {
            "xaxis": axis("NFE", type="log", **POWERS),
            "yaxis": axis("distance", type="log", **POWERS),
        },
    )
