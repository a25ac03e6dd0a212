"""Figures of the notebooks alone, drawn from `noise`."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from diffusionflow import analytic, schedules
from diffusionflow._numeric import in_float64
from experiments import style
from experiments.plots import accuracy, noise

THREE = analytic.Mixture(
    np.array([0.4, 0.35, 0.25]),
    np.array([[-1.4, -0.6], [1.3, 0.9], [0.9, -1.5]]),
    np.array([[0.1], [0.15], [0.05]]),
)


def density(data: analytic.Mixture, z: np.ndarray, levels: tuple) -> np.ndarray:
    """`p(z)` at `levels = (alpha, sigma)`, NumPy float64."""
    log_density = lambda data, z, alpha, sigma: data.log_density(z, alpha, sigma)
    return np.exp(in_float64(log_density, data, z, *levels))


@style.context()
def small_step(step: float = 0.3) -> Figure:
    """DDIM with the sign reversed, and diffusion, over the density of z."""
    schedule = schedules.Cosine()
    found = noise.small_step(THREE, schedule=schedule, step=step)
    at_half = (np.sqrt(0.5), np.sqrt(0.5))  # log-SNR 0
    axis = np.linspace(-3.2, 3.2, 81)
    place = np.stack(np.meshgrid(axis, axis), -1)
    value = density(THREE, place.reshape(-1, 2), at_half).reshape(place.shape[:2])
    figure, axes = style.panels(1, 2, sharey=True)
    ends = {
        "DDIM, its sign reversed": found.reversed,
        "forward diffusion": found.diffused,
    }
    colors = (style.COLORS["blue"], style.COLORS["vermilion"])
    for panel, color, (title, end) in zip(axes[0], colors, ends.items(), strict=True):
        panel.contourf(axis, axis, value, levels=8, cmap="Greys", alpha=0.6)
        moved = (end - found.before).T
        panel.quiver(
            *found.before.T,
            *moved,
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
    """Choices of noise as epsilon and as eta, on flow matching."""
    t = np.linspace(0.01, 0.99, 197)
    found = noise.diffusions_on_one_axis(t, schedule=schedules.FlowMatching())
    figure, axes = style.panels(1, 2, width=1.15)
    for i, (name, each) in enumerate(found.items()):
        axes[0, 0].plot(t, each.epsilon, label=name, **style.lines(i))
        axes[0, 1].plot(t, each.eta, **style.lines(i))
    titles = (r"interpolant: $\epsilon_t$", r"SDE: $\eta_t = \epsilon_t / g_t$")
    for panel, title in zip(axes[0], titles, strict=True):
        panel.set(title=title, xlabel="t, from noise to data", xlim=(1, 0))
        panel.set_ylim(-0.05, 3.5)
    figure.legend(loc="outside lower center", ncols=5)
    return figure


@style.context()
def generated(names: tuple[str, ...] | None = None, **settings: Any) -> Figure:
    """Samples of each choice of noise, over the density of the data."""
    data, chosen = accuracy.mixture(), noise.choices()
    names = tuple(chosen) if names is None else names
    x = np.linspace(-3.2, 3.6, 681)
    exact = density(data, x, (1.0, 0.0))
    figure, axes = style.panels(1, len(names), width=0.7, sharey=True)
    for panel, name in zip(axes[0], names, strict=True):
        found = noise.generated(data, chosen[name], **settings)
        bins = np.linspace(x[0], x[-1], 86)
        panel.hist(found, bins, density=True, color=style.COLORS["sky"])
        panel.plot(x, exact, color="black", lw=1.0)
        panel.set(title=name, xlabel="x", xlim=(x[0], x[-1]))
    axes[0, 0].set_ylabel("density")
    return figure
