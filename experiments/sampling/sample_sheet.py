"""Draws samples in a grid, under the pictures that they are made of."""

import pathlib

import numpy as np

from experiments.data.base import DataTransform
from experiments.sampling.autoencoder import Codec
from experiments.sampling.edits import Edit
from experiments.sampling.shards import Shards
from experiments.visualization import sample_images

COLUMNS = 10  # where classes do not come in turn


def write(
    path: pathlib.Path,
    shards: Shards,
    transform: DataTransform,
    edit: Edit | None,
    labels: np.ndarray,
    classes: int,
    codec: Codec | None,
) -> None:
    """Writes `path.png` of the first samples.

    Args:
      path: of the result, without suffix.
      shards: of the sampling run, all of them there.
      transform: of the data.
      edit: that made the samples; None for samples from noise.
      labels: of the samples that are shown, [n].
      classes: that are sampled in turn, each a column; 0 for none.
      codec: of latents; of what the edit shows above, it decodes the pictures alone.
    """
    columns = classes or COLUMNS
    shown = shards.first(len(labels))
    if edit is not None:
        columns = edit.columns or min(columns, len(labels))
        if shown.ndim == 4:
            above = edit.above(len(labels), shards.first)
            if codec is not None:  # noise is no latent of a picture
                above = [codec.pictures(part)[0] for part in above[:1]]
            shown = interleaved([*above, shown], columns, transform)
    sample_images.write_samples(
        path.with_name(path.name + ".png"),
        shown,
        labels,
        transform=transform,
        columns=columns,
    )


def interleaved(
    parts: list[np.ndarray], columns: int, transform: DataTransform
) -> np.ndarray:
    """Arranges images in rows, one of each part in turn, as stored values.

    Args:
      parts: images [n, height, width, channels], stored values or floats.
      columns: images in a row; the last one is filled with zeros.
      transform: of the data.
    """
    stored = [
        transform.to_stored(part) if part.dtype.kind == "f" else part for part in parts
    ]
    if len(stored) == 1:
        return stored[0]
    missing = -len(stored[0]) % columns
    rows = [
        np.pad(part, [(0, missing), (0, 0), (0, 0), (0, 0)]).reshape(
            -1, columns, *part.shape[1:]
        )
        for part in stored
    ]
    return np.stack(rows, axis=1).reshape(-1, *stored[0].shape[1:])
