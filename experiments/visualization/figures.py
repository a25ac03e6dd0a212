"""Draws the figures; each function computes its numbers and draws the result."""

import pathlib
from collections.abc import Callable

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from diffusionflow import schedules
from diffusionflow._numeric import in_float64
from experiments.analysis import gaussian_trajectories, sampler_error, weights
from experiments.runtime import own_files
from experiments.visualization import style

SCALES = {0.0: "flow matching", 3 / 7: "in between", 1.0: "variance preserving"}
CROSSOVERS = {  # variances between which the two schedules change places
    "straightness": ((0.02, 0.5), (2.0, 50.0)),
    "end": ((0.01, 0.2),),
}


@style.context()
def churn(values: tuple[float, ...] = (0.0, 0.2, 0.5)) -> Figure:
    """Draws the weights of the predictions of v in a sample, at three churns."""
    churned = weights.churn_weights(np.array(values))
    figure, axes = style.panels(1, 1, width=1.4)
    for i, value in enumerate(values):
        label = {0.0: "0 (DDIM)", 0.5: "1/2 (DDPM)"}.get(value, f"{value:g}")
        axes[0, 0].plot(churned.t, -churned.h[i], label=label, **style.lines(i))
    axes[0, 0].legend(title="churn")
    axes[0, 0].set(
        title="Predictions in a sample, cosine schedule, 100 steps",
        xlabel="t, from noise to data",
        ylabel="weight $-h_i$ of $v_i$",
        xlim=(1, 0),
        ylim=(0, None),
    )
    return figure


@style.context()
def scaling() -> Figure:
    """Draws five steps of DDIM and of Euler's method on three scalings of schedules."""
    runs = gaussian_trajectories.particles_under_scaling(np.array([*SCALES]))
    figure, axes = style.panels(1, len(SCALES), sharey=True)
    for i, name in enumerate(SCALES.values()):
        _particles(axes[0, i], runs, i)
        axes[0, i].set(title=name, xlabel="t", xlim=(1.02, -0.03))
    axes[0, 0].set_ylabel("z")
    figure.suptitle("Data N(0, 1/4), one log-SNR, three scales", fontsize="medium")
    _legend(figure)
    return figure


@style.context()
def paths(variances: tuple[float, ...] = (0.01, 0.5)) -> Figure:
    """Draws the same on data of two variances, flow matching next to its scaling."""
    fractions = (gaussian_trajectories.FLOW, gaussian_trajectories.PRESERVING)
    variance, fraction = np.meshgrid(variances, fractions, indexing="ij")
    runs = gaussian_trajectories.particles_under_scaling(fraction, variance=variance)
    figure, axes = style.panels(len(variances), 2, sharey=True, sharex=True)
    for i, value in enumerate(variances):
        for j, kind in enumerate(fractions):
            _particles(axes[i, j], runs, (i, j))
            axes[i, j].set(title=f"{SCALES[kind]}, data N(0, {value:g})")
        axes[i, 0].set(ylabel="z", xlim=(1.02, -0.03))
    axes[-1, 0].set(xlabel="t")
    axes[-1, 1].set(xlabel="t")
    _legend(figure)
    return figure


def _particles(
    axes: Axes, runs: gaussian_trajectories.Scaling, where: int | tuple
) -> None:
    """Draws thin black paths of many steps under those of five."""
    axes.plot(runs.fine.t, runs.fine.z[where], color="0.25", lw=0.9)
    for name, marker in (("ddim", "o"), ("euler", "s")):
        each = getattr(runs, name)
        axes.plot(each.t, each.z[where], **_line(name), marker=marker, ms=3.5)


def _line(name: str) -> dict:
    chosen = {"ddim": ("blue", "-"), "euler": ("vermilion", "--")}[name]
    return dict(color=style.COLORS[chosen[0]], ls=chosen[1], lw=1.2)


def _legend(figure: Figure) -> None:
    shown = [
        Line2D([], [], **_line("ddim"), marker="o", ms=3.5, label="DDIM, 5 steps"),
        Line2D([], [], **_line("euler"), marker="s", ms=3.5, label="Euler in t, 5"),
        Line2D([], [], color="0.25", lw=0.9, label="DDIM, 255"),
    ]
    figure.legend(handles=shown, loc="outside lower center", ncols=3)


@style.context()
def straightness() -> Figure:
    """Draws which scaling is straighter, and which ends nearer, by data variance."""
    variance = np.geomspace(1e-3, 1e3, 121)
    straight = lambda v, fraction: gaussian_trajectories.straightness(
        v, gaussian_trajectories.scaled_flow(fraction)
    )
    measures = {
        "straightness": ("largest distance from the chord", straight),
        "end": ("error at the end, Euler, 5 steps", gaussian_trajectories.end_error),
    }
    figure, axes = style.panels(1, 2, width=1.15)
    for panel, (name, (title, measure)) in zip(axes[0], measures.items(), strict=True):
        for i, fraction in enumerate(
            (gaussian_trajectories.FLOW, gaussian_trajectories.PRESERVING)
        ):
            value = measure(variance, fraction)
            panel.loglog(variance, value, label=SCALES[fraction], **style.lines(i))
        for low, high in CROSSOVERS[name]:
            place = gaussian_trajectories.crossover(measure, low, high)
            style.mark(panel, place, f"{place:.4g}")
        panel.set(title=title, xlabel="variance of the data", ylim=(1e-3, None))
    axes[0, 0].set_ylabel("per unit of $z_1$")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2)
    return figure


@style.context()
def weightings() -> Figure:
    """Draws total weights of published recipes, each divided by its maximum."""
    logsnr = np.linspace(-10, 10, 1000)
    figure, axes = style.panels(1, 1, width=1.6)
    widths = {"flow matching": 4.0}  # under that of the cosine schedule, which it is
    for i, (name, weight) in enumerate(weights.weightings_on_one_axis(logsnr).items()):
        line = style.lines(i) | dict(lw=widths.get(name, 1.6))
        axes[0, 0].plot(logsnr, weight, label=name, **line)
    axes[0, 0].legend()
    axes[0, 0].set(
        title="What is learned: total weight on the eps-MSE, over its maximum",
        xlabel="log-SNR, from noise to data",
        xlim=(-10, 10),
        ylim=(0, 1.03),
    )
    return figure


@style.context()
def outputs() -> Figure:
    """Draws the squared error of each network output over that of eps."""
    logsnr = np.linspace(-10, 10, 401)
    figure, axes = style.panels(1, 1, width=1.4)
    for i, (name, ratio) in enumerate(weights.mse_ratios(logsnr).items()):
        axes[0, 0].semilogy(logsnr, ratio, label=name, **style.lines(i))
    axes[0, 0].legend(title="output")
    axes[0, 0].set(
        title="Error of an output over that of eps, same z",
        xlabel="log-SNR, from noise to data",
        ylabel="ratio of squared errors",
        xlim=(-10, 10),
    )
    return figure


@style.context()
def errors() -> Figure:
    """Draws the Wasserstein-2 distance to a mixture against NFE."""
    figure, axes = style.panels(1, 1, width=1.5)
    for i, (name, sampler) in enumerate(sampler_error.SAMPLERS.items()):
        points = sampler_error.errors_against_nfe(sampler, sampler_error.mixture())
        nfe, error = zip(*points, strict=True)
        axes[0, 0].plot(nfe, error, label=name, **style.lines(i, marked=True))
    style.plain_logs(axes[0, 0])
    axes[0, 0].legend(fontsize="x-small")
    axes[0, 0].set(
        title="A mixture, exact denoiser, flow matching",
        xlabel="NFE (number of function evaluations)",
        ylabel="Wasserstein-2 distance to the data",
    )
    return figure


@style.context()
def trajectories(churns: tuple[float, ...] = (0.0, 0.2, 0.5)) -> Figure:
    """Draws particles with more and more sampler noise, over the density of z."""
    data, schedule = sampler_error.mixture(), schedules.Cosine()
    starts = np.linspace(-2, 2, 9)
    runs = gaussian_trajectories.trajectories(
        np.array(churns), data, schedule=schedule, starts=starts
    )
    t, z = np.linspace(0, 1, 201), np.linspace(-3.6, 3.6, 241)
    place, time = (grid.ravel() for grid in np.meshgrid(z, t, indexing="ij"))
    log_density = lambda z, t: data.log_density(z, schedule.alpha(t), schedule.sigma(t))
    density = np.exp(in_float64(log_density, place, time)).reshape(len(z), len(t))
    figure, axes = style.panels(1, len(churns), sharey=True)
    for i, value in enumerate(churns):
        panel = axes[0, i]
        panel.imshow(
            density**0.5,  # or the narrow mode alone would be seen
            extent=(t[0], t[-1], z[0], z[-1]),
            origin="lower",
            aspect="auto",
            cmap="Greys",
            vmax=1.4 * np.quantile(density**0.5, 0.995),
        )
        panel.plot(runs.t, runs.z[i], lw=0.9)
        kind = {0.0: ", DDIM", 0.5: ", DDPM"}.get(value, "")
        panel.set(title=f"churn {value:g}{kind}", xlabel="t", xlim=(1, 0))
        panel.grid(False)
    axes[0, 0].set(ylabel="z", ylim=(z[0], z[-1]))
    return figure


FIGURES: dict[str, Callable[[], Figure]] = {
    draw_fn.__name__: draw_fn
    for draw_fn in (
        churn,
        scaling,
        paths,
        straightness,
        weightings,
        outputs,
        errors,
        trajectories,
    )
}


def write(directory: pathlib.Path, names: tuple[str, ...]) -> list[pathlib.Path]:
    """Draws figures into a directory, which is created.

    Args:
      directory: of the files `NAME.svg` and `NAME.png`.
      names: keys of `FIGURES`.

    Returns:
      The files.

    Raises:
      UsageError: a file is there that `figures` has not written.
    """
    directory.mkdir(parents=True, exist_ok=True)
    written = [path for name in names for path in style.paths(directory / name)]
    own_files.check("out", written, "figures")
    for name in names:
        style.save(FIGURES[name](), directory / name, own_files.mark("figures"))
    return written
