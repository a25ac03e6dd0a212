"""Draws the figures that only the notebooks use."""

import numpy as np
from matplotlib.figure import Figure

from diffusionflow import analytic, schedules
from diffusionflow._numeric import in_float64
from experiments.analysis import sampler_error, sde_noise
from experiments.visualization import style

THREE = analytic.Mixture(
    np.array([0.4, 0.35, 0.25]),
    np.array([[-1.4, -0.6], [1.3, 0.9], [0.9, -1.5]]),
    np.array([[0.1], [0.15], [0.05]]),
)


LONGER = 3  # arrows of a reversed step, which is short compared with diffusion


def density(data: analytic.Mixture, z: np.ndarray, levels: tuple) -> np.ndarray:
    """Computes `p(z)` at `levels = (alpha, sigma)`, NumPy float64."""
    log_density = lambda data, z, alpha, sigma: data.log_density(z, alpha, sigma)
    return np.exp(in_float64(log_density, data, z, *levels))


@style.context()
def small_step(step: float = 0.3) -> Figure:
    """Draws a reversed DDIM step and diffusion, over the density of z."""
    logsnr = 1.5
    particles = sde_noise.small_step(
        THREE, schedule=schedules.VE(), logsnr=logsnr, step=step
    )
    levels = (1.0, np.exp(-logsnr / 2))
    axis = np.linspace(-3.2, 3.2, 81)
    place = np.stack(np.meshgrid(axis, axis), -1)
    value = density(THREE, place.reshape(-1, 2), levels).reshape(place.shape[:2])
    figure, axes = style.panels(1, 2, sharey=True)
    moves = {
        f"DDIM, its sign reversed (x {LONGER})": LONGER
        * (particles.reversed - particles.before),
        "forward diffusion": particles.diffused - particles.before,
    }
    colors = (style.COLORS["blue"], style.COLORS["vermilion"])
    for panel, color, (title, move) in zip(axes[0], colors, moves.items(), strict=True):
        panel.contourf(axis, axis, value, levels=8, cmap="Greys", alpha=0.6)
        panel.quiver(
            *particles.before.T,
            *move.T,
            color=color,
            angles="xy",
            scale_units="xy",
            scale=1,
            width=0.006,
        )
        panel.set(title=title, xlabel="$z_1$", aspect="equal", xlim=(-3, 3))
        panel.grid(False)
    axes[0, 0].set(ylabel="$z_2$", ylim=(-3, 3))
    return figure


@style.context()
def diffusions() -> Figure:
    """Draws choices of noise as epsilon and as eta, on flow matching."""
    t = np.linspace(0.01, 0.99, 197)
    by_name = sde_noise.diffusions_on_one_axis(t, schedule=schedules.FlowMatching())
    figure, axes = style.panels(1, 2, width=1.15)
    for i, (name, each) in enumerate(by_name.items()):
        axes[0, 0].plot(t, each.epsilon, label=name, **style.lines(i))
        axes[0, 1].plot(t, each.eta, **style.lines(i))
    titles = (r"interpolant: $\epsilon_t$", r"SDE: $\eta_t = \epsilon_t / g_t$")
    for panel, title in zip(axes[0], titles, strict=True):
        panel.set(title=title, xlabel="t, from noise to data", xlim=(1, 0))
        panel.set_ylim(-0.05, 3.5)
    figure.legend(loc="outside lower center", ncols=5)
    return figure


@style.context()
def histograms(samples: dict[str, np.ndarray], data: analytic.Mixture) -> Figure:
    """Draws samples on the line over the density of the data, a panel per set.

    Args:
      samples: title to `[n]`.
      data: in one dimension, events of shape ().
    """
    x = np.linspace(-3.2, 3.6, 681)
    exact = density(data, x, (1.0, 0.0))
    figure, axes = style.panels(1, len(samples), width=0.7, sharey=True)
    for panel, (name, each) in zip(axes[0], samples.items(), strict=True):
        bins = np.linspace(x[0], x[-1], 86)
        panel.hist(each, bins, density=True, color=style.COLORS["sky"])
        panel.plot(x, exact, color="black", lw=1.0)
        panel.set(title=name, xlabel="x", xlim=(x[0], x[-1]))
    axes[0, 0].set_ylabel("density")
    return figure


@style.context()
def clouds(points: dict[str, np.ndarray], *, reach: float = 3.0) -> Figure:
    """Draws points in the plane, a panel per set.

    Args:
      points: title to `[n, 2]`.
      reach: of the axes, which are [-reach, reach].
    """
    figure, axes = style.panels(1, len(points), width=0.75, sharey=True)
    for panel, (title, each) in zip(axes[0], points.items(), strict=True):
        panel.plot(*np.asarray(each).T, ".", ms=1.5, alpha=0.5)
        panel.set(title=title, aspect="equal", xlim=(-reach, reach))
    axes[0, 0].set_ylim(-reach, reach)
    return figure


@style.context()
def curves(x: np.ndarray, lines: dict[str, np.ndarray], **labels: str) -> Figure:
    """Draws lines over one axis.

    Args:
      x: `[n]`.
      lines: name to `[n]`.
      **labels: of `Axes.set`, such as `title` and `xlabel`.
    """
    figure, axes = style.panels(1, 1, width=1.5)
    for i, (name, values) in enumerate(lines.items()):
        axes[0, 0].plot(x, values, label=name, **style.lines(i))
    axes[0, 0].legend()
    axes[0, 0].set(**labels)
    return figure


@style.context()
def errors(points: dict[str, list[sampler_error.Point]]) -> Figure:
    """Draws the errors of samplers against NFE.

    Args:
      points: name to the result of `sampler_error.errors_against_nfe`.
    """
    figure, axes = style.panels(1, 1, width=1.5)
    for i, (name, each) in enumerate(points.items()):
        nfe, error = zip(*each, strict=True)
        axes[0, 0].plot(nfe, error, label=name, **style.lines(i, marked=True))
    style.plain_logs(axes[0, 0])
    axes[0, 0].legend()
    axes[0, 0].set(xlabel="NFE", ylabel="Wasserstein-2 distance to the data")
    return figure


@style.context()
def paths(trajectories: dict[str, np.ndarray], times: np.ndarray) -> Figure:
    """Draws paths of numbers against time, a panel for each set of them.

    Args:
      trajectories: title to states `[num_states, n]`.
      times: of the states, `[num_states]`.
    """
    figure, axes = style.panels(1, len(trajectories), sharey=True)
    for panel, (title, states) in zip(axes[0], trajectories.items(), strict=True):
        panel.plot(times, states, color=style.COLORS["blue"], lw=0.6, alpha=0.7)
        panel.set(title=title, xlabel="t, from noise to data", xlim=(1, 0))
    axes[0, 0].set_ylabel("z")
    return figure


@style.context()
def image_rows(rows: dict[str, np.ndarray]) -> Figure:
    """Draws a row of grey images for each entry.

    Args:
      rows: name to images `[n, height, width]`, in [-1, 1].
    """
    figure, axes = style.panels(len(rows), 1, width=2.0)
    for panel, (name, images) in zip(axes[:, 0], rows.items(), strict=True):
        framed = np.pad(images, [(0, 0), (1, 1), (1, 1)], constant_values=1.0)
        panel.imshow(np.concatenate(list(framed), axis=1), "gray", vmin=-1, vmax=1)
        panel.set_title(name)
        panel.set_axis_off()
    figure.set_size_inches(6.4, 0.9 * len(rows))
    return figure
