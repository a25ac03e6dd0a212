"""Plots the total weights of objectives against the log-SNR."""

import pathlib
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from experiments.analysis.objective_report import (
    NUM_POINTS,
    RANGE,
    Named,
    recipe_weights,
    weights,
)
from experiments.runtime import files
from experiments.visualization import style


@style.context()
def draw(
    path: str | pathlib.Path, own: Named, other: Named | None = None, mark: str = ""
) -> None:
    """Writes the picture of total weights, each divided by its maximum.

    Args:
      path: a `.png` in a directory that exists.
      own: drawn first.
      other: what it is compared with, if anything.
      mark: of `own_files.mark`, by which a command knows its picture again.
    """
    logsnr = np.linspace(*RANGE, NUM_POINTS)
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot(
        xlabel="log-SNR (data to the right)",
        ylabel="total weight / maximum",
        xlim=RANGE,
        ylim=(0, 1.05),
    )
    for name, weight in recipe_weights(logsnr).items():
        axes.plot(logsnr, weight / np.nanmax(weight), label=name, lw=1.2, alpha=0.7)
    for named, dashes in ((other, "--"), (own, "-")):
        if named is not None:
            weight = weights(named.objective, logsnr)
            line: dict[str, Any] = dict(color="black", ls=dashes, lw=2.2)
            axes.plot(logsnr, weight / np.nanmax(weight), label=named.name, **line)
    axes.legend()
    with files.atomic_write(pathlib.Path(path)) as temporary:
        figure.savefig(temporary, format="png", dpi=120, metadata={"Software": mark})
