"""Helpers of the interactive figures: Plotly lines, and sentences over sliders."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from experiments.visualization.blocks import Over, Trace

POWERS = {"dtick": 1, "exponentformat": "power"}  # ticks of an axis of type log


def line(x: Any, y: Any, name: str, group: int, **more: Any) -> Trace:
    """Makes a Plotly line; `group` is the index of its color, -1 for a reference."""
    trace = {"type": "scatter", "mode": "lines", "name": name, "meta": {"group": group}}
    return trace | {"x": x, "y": y, "line": {"width": 2}} | more


def particles_as_line(t: np.ndarray, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Joins the paths of particles to one line with gaps.

    Args:
      t: `[n]`.
      z: `[*slider, n, num_particles]`.

    Returns:
      x `[num_particles (n + 1)]` and y `[*slider, num_particles (n + 1)]`.
    """
    gap = np.full((*z.shape[:-2], 1, z.shape[-1]), np.nan)
    y = np.concatenate([z, gap], -2).swapaxes(-1, -2)
    x = np.tile(np.append(t, np.nan), z.shape[-1])
    return x, y.reshape(*y.shape[:-2], -1)


def texts(values: Iterable[float]) -> list[str]:
    """Formats slider labels with three significant digits."""
    return [f"{value:.3g}" for value in values]


def words(say_fn: Callable[..., str], *sizes: int) -> Over:
    """Calls `say_fn(*place)` at every place of all sliders, `sizes` places each."""
    sentences = np.empty(sizes, object)
    for place in np.ndindex(*sizes):
        sentences[place] = say_fn(*place)
    return Over(tuple(range(len(sizes))), sentences.tolist())
