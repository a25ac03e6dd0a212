"""Draws points, series and loss curves, by Matplotlib."""

import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from experiments.visualization import style


@style.context()
def scatter(path: pathlib.Path, points: np.ndarray, labels: np.ndarray) -> None:
    """Draws the first two features, coloured by label."""
    figure = Figure(figsize=(6, 6), layout="constrained")
    axes = figure.add_subplot(aspect="equal")
    axes.scatter(points[:, 0], points[:, 1], c=labels, cmap="tab10", s=4, linewidths=0)
    figure.savefig(path, dpi=120)


@style.context()
def lines(path: pathlib.Path, series: np.ndarray, columns: int) -> None:
    """Draws series [n, length, channels], one line per channel, on common axes."""
    columns = min(columns, len(series))
    rows = -(-len(series) // columns)
    figure = Figure(figsize=(2.4 * columns, 1.6 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    for axes in grid.flat[len(series) :]:
        axes.set_axis_off()
    for axes, one in zip(grid.flat, series, strict=False):
        axes.plot(one, linewidth=1)
    figure.savefig(path, dpi=120)


@style.context()
def write_loss_curve(
    path: pathlib.Path, rows: list[dict[str, Any]], losses: Sequence[str]
) -> None:
    """Draws those losses that the rows of `metrics.jsonl` have, over the step."""
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot(xlabel="step", ylabel="loss")
    for name in losses:
        points = [(row["step"], row[name]) for row in rows if row.get(name) is not None]
        if points:
            axes.plot(
                *zip(*points, strict=True),
                label=name,
                marker="." if len(points) < 50 else "",
            )
    if axes.lines:
        axes.legend()
        axes.set_yscale("log")
    figure.savefig(path, dpi=120)
