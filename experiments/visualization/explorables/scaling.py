"""Interactive figure: DDIM and Euler's method on Gaussians, by scaling and steps."""

import numpy as np

from experiments.analysis import gaussian_trajectories
from experiments.analysis.gaussian_trajectories import DDIM, EULER, FLOW, PRESERVING
from experiments.visualization.blocks import (
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
    texts,
    words,
)

FRACTIONS = np.linspace(FLOW, PRESERVING, 15)
VARIANCES = np.array([0.01, 0.03, 0.0833, 0.25, 0.5, 1.0, 3.0, 12.0])
STEPS = (1, 2, 3, 5, 8, 12, 20)
FRACTION, VARIANCE, STEP = 0, 1, 2  # sliders
WIDE = np.geomspace(1e-3, 1e3, 61)  # variances
LEAST = 1e-4  # what the axis of errors shows
SHOWN = slice(None, None, 5)  # of 255 steps

LEAD = (
    "Two schedules with one log-SNR differ by a scale c_t of z alone: z' = c_t z. "
    "DDIM knows nothing of it, so its last states stay where they are. Euler's method "
    "on the probability-flow ODE in t is DDIM where alpha and sigma are linear in t, "
    "as on the flow-matching schedule, and another method at the other scalings here. "
    "How straight the exact paths are depends on the data as much as on the schedule. "
    "After Gao et al. 2024, Diffusion Meets Flow Matching."
)


def section() -> Section:
    """Builds the section: particles, and final errors against the data variance."""
    sliders = (
        Slider(
            "scaling: 0 flow matching, 1 variance preserving", texts(FRACTIONS), start=7
        ),
        Slider("variance v of the data", texts(VARIANCES), start=3),
        Slider("number of steps", texts(STEPS), start=STEPS.index(5)),
    )
    variances = np.append(WIDE, VARIANCES)
    error = lambda fraction, sampler: np.stack(
        [
            gaussian_trajectories.end_error(
                variances, fraction, num_steps=n, sampler=sampler
            )
            for n in STEPS
        ]
    )
    euler, ddim = error(FRACTIONS[:, None], EULER), error(FLOW, DDIM)
    here, same = euler[..., len(WIDE) :], ddim[..., len(WIDE) :]
    say = lambda i, j, k: (
        f"{STEPS[k]} step{'s' * (STEPS[k] > 1)}: the last states are off by "
        f"{here[k, i, j]:.4f} |z_1| with Euler's method in t, and by "
        f"{same[k, j]:.4f} |z_1| with DDIM, at every scaling."
    )
    readout = [words(say, len(FRACTIONS), len(VARIANCES), len(STEPS))]
    block = Explorable(sliders, (moving(), against_variance(euler, ddim)), readout)
    return Section("Scaling, variance of the data, steps", LEAD, [block])


def moving() -> Chart:
    """Draws six particles by two samplers in few steps, and by DDIM in many."""
    fraction, variance = np.meshgrid(FRACTIONS, VARIANCES, indexing="ij")
    paths = lambda sampler, num_steps: gaussian_trajectories.gaussian_paths(
        fraction, variance, sampler=sampler, num_steps=num_steps
    )
    fine = paths(DDIM, gaussian_trajectories.FINE)
    t, z = particles_as_line(fine.t[SHOWN], fine.z[..., SHOWN, :])
    many = f"DDIM, {gaussian_trajectories.FINE} steps"
    data = [line(t, Over((FRACTION, VARIANCE), z), many, -1, line={"width": 1.2})]
    looks = (("DDIM", DDIM, "circle"), ("Euler, in t", EULER, "square"))
    for group, (name, sampler, symbol) in enumerate(looks):
        runs = [particles_as_line(*paths(sampler, n)) for n in STEPS]
        x = Over((STEP,), [x for x, _ in runs])
        y = Over((STEP, FRACTION, VARIANCE), [y for _, y in runs])
        marker = {"size": 6, "symbol": symbol}
        data.append(line(x, y, name, group, mode="lines+markers", marker=marker))
    return Chart(
        "Particles from noise to data",
        "Six particles z_1 and the exact denoiser of data N(0, v).",
        data,
        {
            "xaxis": axis("t, from noise to data", range=[1.02, -0.02]),
            "yaxis": axis("z"),
        },
    )


def against_variance(euler: np.ndarray, ddim: np.ndarray) -> Chart:
    """Draws errors of the last state against the variance of the data.

    Args:
      euler: of Euler's method at `WIDE` and then at the places of the slider,
        `[step, fraction, variance]`.
      ddim: of DDIM, at every scaling, `[step, variance]`.
    """
    euler, ddim = np.maximum(euler, LEAST), np.maximum(ddim, LEAST)
    wide, here = euler[..., : len(WIDE)], euler[..., len(WIDE) :]
    place = Over((VARIANCE,), VARIANCES[:, None])
    error = Over((STEP, FRACTION, VARIANCE), here[..., None])
    mark = {"mode": "markers", "marker": {"size": 11, "symbol": "x"}}
    of_steps = lambda values: Over((STEP,), values)
    dotted, dashed = {"line": {"dash": "dot"}}, {"line": {"dash": "dash"}}
    data = [
        line(
            WIDE,
            of_steps(ddim[:, : len(WIDE)]),
            "DDIM, any scaling",
            0,
            line={"width": 5},
        ),
        line(WIDE, of_steps(wide[:, 0]), "Euler, flow matching", 2, **dotted),
        line(WIDE, of_steps(wide[:, -1]), "Euler, v.p.", 3, **dashed),
        line(WIDE, Over((STEP, FRACTION), wide), "Euler, this scaling", 1),
        line(place, error, "here", 1, **mark),
    ]
    return Chart(
        "Error of the last state against the variance of the data",
        "Distance from the end of the exact flow, per unit of z_1; what is below 1e-4 "
        "is drawn there. DDIM's is that of Euler's method on flow matching. v.p.: "
        "variance preserving.",
        data,
        {
            "xaxis": axis("variance v of the data", type="log", **POWERS),
            "yaxis": axis("error", type="log", range=[-4, 1.7], **POWERS),
        },
    )
