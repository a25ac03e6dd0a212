"""Interactive figure: samples of a mixture by each sampler, and errors against NFE."""

from typing import Any, NamedTuple

import numpy as np

from diffusionflow import analytic
from diffusionflow._numeric import in_float64
from diffusionflow.samplers import Sampler
from diffusionflow.samplers.names_elsewhere import ROWS
from experiments.analysis import sampler_error
from experiments.analysis.sampler_error import SAMPLERS, Samples
from experiments.visualization.blocks import (
    MARKERS,
    Chart,
    Explorable,
    Over,
    Section,
    Slider,
    Table,
    axis,
)
from experiments.visualization.explorables.base import POWERS, line, words

STEPS = (3, 5, 8, 12, 20, 40, 80)
SAMPLER, STEP = 0, 1  # sliders
EDGES = np.linspace(-3.2, 3.6, 86)
IN_TABLE = STEPS.index(20)
NUM_STARTS = 5_000  # of each of many samplers

LEAD = (
    "Samples of a mixture with its exact denoiser, so that all of the error is the "
    "sampler's, and for a stochastic one that of a finite sample. Starts are quantiles "
    "of the prior. Methods of higher order win with many steps, and can lose with few. "
    "Choose a sampler by any of its names: those of web interfaces, of k-diffusion's "
    "functions and of other libraries' classes stand below ours. All take equal steps "
    "of time on flow matching here."
)


class Choice(NamedTuple):
    """A sampler with its names.

    Fields:
      name: shown first.
      sampler: itself.
      elsewhere: what it is called elsewhere.
      differences: to what is called so.
    """

    name: str
    sampler: Sampler
    elsewhere: tuple[str, ...] = ()
    differences: str = ""


def choices() -> list[Choice]:
    """Lists the samplers of the lines, then those that only have a name elsewhere."""
    found: dict[Any, Choice] = {
        sampler: Choice(name, sampler) for name, sampler in SAMPLERS.items()
    }
    for row in ROWS:
        known = found.get(row.sampler, Choice(row.names[0], row.sampler))
        elsewhere = known.elsewhere + row.names
        differences = "; ".join(filter(None, (known.differences, row.differences)))
        found[row.sampler] = known._replace(
            elsewhere=elsewhere, differences=differences
        )
    return list(found.values())


def by_library(known: list[Choice]) -> list[tuple[str, list[tuple[str, int]]]]:
    """Groups the names elsewhere, each with the place of its sampler."""
    groups: dict[str, list[tuple[str, int]]] = {
        "web interfaces": [],
        "k-diffusion": [],
        "diffusers": [],
        "score_sde, rectified-flow": [],
    }
    for place, choice in enumerate(known):
        for name in choice.elsewhere:
            if name.startswith("sample_"):
                group = "k-diffusion"
            elif name.endswith("Scheduler"):
                group = "diffusers"
            elif name.endswith(("Predictor", "Sampler")):
                group = "score_sde, rectified-flow"
            else:
                group = "web interfaces"
            groups[group].append((name, place))
    return [(title, sorted(names)) for title, names in groups.items()]


def section() -> Section:
    """Builds the section: densities of samples, errors, and the table of names."""
    data, known = sampler_error.mixture(), choices()
    runs = [
        sampler_error.runs_against_nfe(
            choice.sampler, data, num_steps=STEPS, num_starts=NUM_STARTS
        )
        for choice in known
    ]
    names = [choice.name for choice in known]

    def say(i: int, j: int) -> str:
        run = runs[i][j]
        differs = known[i].differences.replace("`", "")
        return (
            f"{names[i]}, {STEPS[j]} steps: NFE {run.nfe}, Wasserstein-2 distance to "
            f"the data {run.error:.3g}. Here: {known[i].sampler}."
            + (f" Elsewhere: {differs}." if differs else "")
        )

    sliders = (
        Slider("sampler", names, named=True, more=by_library(known)),
        Slider("number of steps", [str(n) for n in STEPS], start=1),
    )
    readout = [words(say, len(names), len(STEPS))]
    charts = (densities(data, runs), errors(names, runs))
    block = Explorable(sliders, charts, readout)
    return Section("Samplers and their steps", LEAD, [block, table(known, runs)])


def densities(data: analytic.Mixture, runs: list[list[Samples]]) -> Chart:
    """Draws the histogram of the samples and the density of the data."""
    middle = (EDGES[1:] + EDGES[:-1]) / 2
    log_density = lambda data, x: data.log_density(x, 1.0, 0.0)
    exact = np.exp(in_float64(log_density, data, middle))
    width, count = EDGES[1] - EDGES[0], NUM_STARTS
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
    """Draws the errors of some samplers, and of the one chosen with its place."""
    shown = [
        line(
            [run.nfe for run in of],
            [run.error for run in of],
            name,
            group,
            mode="lines+markers",
            marker={"size": 6, "symbol": MARKERS[group]},
        )
        for group, (name, of) in enumerate(zip(SAMPLERS, runs, strict=False))
    ]
    nfe = Over((SAMPLER,), [[run.nfe for run in of] for of in runs])
    error = Over((SAMPLER,), [[run.error for run in of] for of in runs])
    shown.append(line(nfe, error, "chosen", -1, line={"width": 3, "dash": "dot"}))
    place = Over((SAMPLER, STEP), [[[run.nfe] for run in of] for of in runs])
    here = Over((SAMPLER, STEP), [[[run.error] for run in of] for of in runs])
    ring = {"size": 16, "symbol": "circle-open"}
    unnamed: dict[str, Any] = {"mode": "markers", "marker": ring, "showlegend": False}
    shown.append(line(place, here, "here", -1, **unnamed))
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


def table(known: list[Choice], runs: list[list[Samples]]) -> Table:
    """Lists every sampler with its names elsewhere, and its error at 20 steps."""
    rows = [
        (
            choice.name,
            str(of[IN_TABLE].nfe),
            f"{of[IN_TABLE].error:.3g}",
            ", ".join(name for name in choice.elsewhere if name != choice.name),
        )
        for choice, of in zip(known, runs, strict=True)
    ]
    head = ("sampler", "NFE", "distance", "names elsewhere")
    caption = "Samplers by name, with their NFE and distance to the data in 20 steps."
    return Table(head, rows, caption)
