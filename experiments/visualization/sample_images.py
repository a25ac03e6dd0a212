"""Pictures of samples and of the loss."""

import pathlib
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from experiments.data import DataTransform
from experiments.visualization import style

LOSSES = ("loss", "test_loss_raw", "test_loss_ema")
SMALLEST = 64  # pixels to which small images are enlarged


def write_samples(
    path: pathlib.Path,
    samples: np.ndarray,
    labels: np.ndarray,
    *,
    transform: DataTransform,
    columns: int,
) -> None:
    """Writes a picture of samples: a grid of images, or a scatter of points.

    Args:
      path: a `.png`.
      samples: stored values, [n, height, width, channels] with 1, 3 or other channels
        (of which the first is shown), or [n, features] of which two are shown.
      labels: [n], the colour of points; a grid keeps the order of `samples`.
      transform: that of the data.
      columns: images per row of a grid.

    Raises:
      ValueError: if samples are neither images nor points.
    """
    if samples.ndim == 2 and samples.shape[1] >= 2:
        _scatter(path, samples, labels)
    elif samples.ndim == 4:
        if transform.levels is None:
            samples = DataTransform(256).to_stored(samples)
        levels = transform.levels or 256
        grid(samples, levels, columns).save(path)
    else:
        raise ValueError(
            f"samples of shape {samples.shape} have no picture: it takes "
            "[n, height, width, channels] or [n, features >= 2]"
        )


def grid(samples: np.ndarray, levels: int, columns: int) -> Image.Image:
    """Images row by row, enlarged by a whole factor, with a thin frame."""
    count, height, width, channels = samples.shape
    shown = samples if channels == 3 else samples[..., :1]
    grey = np.rint(shown.astype(np.float32) * (255 / (levels - 1))).astype(np.uint8)
    factor = max(1, SMALLEST // max(height, width))
    grey = grey.repeat(factor, axis=1).repeat(factor, axis=2)
    framed = np.pad(grey, [(0, 0), (1, 1), (1, 1), (0, 0)], constant_values=96)
    columns = min(columns, count)
    rows = -(-count // columns)
    blank = np.zeros((rows * columns - count, *framed.shape[1:]), np.uint8)
    cells = np.concatenate([framed, blank]).reshape(rows, columns, *framed.shape[1:])
    image = cells.swapaxes(1, 2).reshape(
        rows * framed.shape[1], columns * framed.shape[2], -1
    )
    return Image.fromarray(image if channels == 3 else image[..., 0])


@style.context()
def _scatter(path: pathlib.Path, points: np.ndarray, labels: np.ndarray) -> None:
    """The first two features, coloured by label."""
    figure = Figure(figsize=(6, 6), layout="constrained")
    axes = figure.add_subplot(aspect="equal")
    axes.scatter(points[:, 0], points[:, 1], c=labels, cmap="tab10", s=4, linewidths=0)
    figure.savefig(path, dpi=120)


@style.context()
def write_loss_curve(path: pathlib.Path, rows: list[dict[str, Any]]) -> None:
    """Draws every loss that the rows of `metrics.jsonl` hold, over the step."""
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot(xlabel="step", ylabel="loss")
    for name in LOSSES:
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
