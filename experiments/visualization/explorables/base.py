"""What the explorable figures share: lines, and values over sliders."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from experiments.visualization.blocks import Over, Trace

POWERS = {"dtick": 1, "exponentformat": "power"}  # ticks of an axis of type log


def line(x: Any, y: Any, name: str, group: int, **more: Any) -> Trace:
    """A line; `group` is its colour, -1 for what is only a reference."""
    found = {"type": "scatter", "mode": "lines", "name": name, "meta": {"group": group}}
    return found | {"x": x, "y": y, "line": {"width": 2}} | more


def particles_as_line(t: np.ndarray, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Paths of particles as one line with gaps.

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
    """What sliders show: three digits."""
    return [f"{value:.3g}" for value in values]


def words(say_fn: Callable[..., str], *sizes: int) -> Over:
    """`say_fn(*place)` at every place of all sliders, of which `sizes` are given."""
    found = np.empty(sizes, object)
    for place in np.ndindex(*sizes):
        found[place] = say_fn(*place)
    return Over(tuple(range(len(sizes))), found.tolist())
