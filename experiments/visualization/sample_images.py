"""Draws samples: images in a grid, other shapes by Matplotlib."""

import pathlib

import numpy as np
from PIL import Image

from experiments.data.base import DataTransform

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
    if samples.ndim in (2, 3):
        from experiments.visualization import plots  # Matplotlib: slow to import

        if samples.ndim == 2:
            plots.scatter(path, samples, labels)
        else:
            plots.lines(path, samples[:LARGEST_LINES], columns)
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
