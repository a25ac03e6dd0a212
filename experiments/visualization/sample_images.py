"""Draws samples and loss curves."""

import pathlib
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from experiments.data.base import DataTransform
from experiments.visualization import style

LOSSES = ("loss", "test_loss_raw", "test_loss_ema")
SMALLEST = 64  # pixels to which small images are enlarged
LARGEST_GRID = 200  # images in a picture
LARGEST_SCATTER = 10_000  # points in a picture
LARGEST_LINES = 30  # series in a picture


def num_shown(event_shape: tuple[int, ...]) -> int:
    """Returns how many samples of a shape a picture shows; 0 if it has no picture.

    Shown are images [height, width, channels], points [features >= 2], series [length,
    channels] and videos [frames, height, width, channels].
    """
    match len(event_shape):
        case 1:
            return LARGEST_SCATTER if event_shape[0] >= 2 else 0
        case 2:
            return LARGEST_LINES
        case 3:
            return LARGEST_GRID
        case 4:
            return max(1, LARGEST_GRID // event_shape[0])
    return 0


def write_samples(
    path: pathlib.Path,
    samples: np.ndarray,
    labels: np.ndarray,
    *,
    transform: DataTransform,
    columns: int,
) -> None:
    """Writes a picture of samples: images, points, lines or rows of frames.

    Args:
      path: a `.png`.
      samples: stored values: [n, height, width, channels] with 1, 3 or other channels
        (of which the first is shown); [n, features], of which two are shown; [n,
        length, channels], the first `LARGEST_LINES` of them, a line a channel; or [n,
        frames, height, width, channels], a row of frames each.
      labels: [n], the colour of points; a grid keeps the order of `samples`.
      transform: that of the data.
      columns: images or series per row of a grid.

    Raises:
      ValueError: if samples of this shape have no picture.
    """
    if not num_shown(samples.shape[1:]):
        raise ValueError(no_picture(samples.shape[1:]))
    if samples.ndim == 2:
        _scatter(path, samples, labels)
        return
    if samples.ndim == 3:
        _lines(path, samples[:LARGEST_LINES], columns)
        return
    if transform.levels is None:
        samples = DataTransform(256).to_stored(samples)
    if samples.ndim == 5:
        columns = samples.shape[1]
        samples = samples.reshape(-1, *samples.shape[2:])
    grid(samples, transform.levels or 256, columns).save(path)


def no_picture(event_shape: tuple[int, ...]) -> str:
    """Explains in one line why samples of a shape have no picture."""
    return (
        f"no picture of samples of shape {list(event_shape)}: shown are [features >= "
        "2], [length, channels], [height, width, channels] and [frames, height, width, "
        "channels]"
    )


def grid(samples: np.ndarray, levels: int, columns: int) -> Image.Image:
    """Arranges images row by row, enlarged by an integer factor, with a thin frame."""
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
    """Draws the first two features, coloured by label."""
    figure = Figure(figsize=(6, 6), layout="constrained")
    axes = figure.add_subplot(aspect="equal")
    axes.scatter(points[:, 0], points[:, 1], c=labels, cmap="tab10", s=4, linewidths=0)
    figure.savefig(path, dpi=120)


@style.context()
def _lines(path: pathlib.Path, series: np.ndarray, columns: int) -> None:
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
