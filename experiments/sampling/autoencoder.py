"""Opens an autoencoder, and decodes sampled latents into pictures."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from diffusionflow import interop
from experiments.data.base import DataTransform
from experiments.runtime import progress, pytrees, sharding
from experiments.runtime.errors import Diverged, UsageError, naming

WIDTH = 8  # latents that a device decodes at once
PICTURES = DataTransform(256)


def opened(path: str) -> interop.Autoencoder:
    """The autoencoder of `--autoencoder`.

    Raises:
      UsageError: it cannot be opened.
    """
    with naming("--autoencoder"), progress.announced("opening the autoencoder"):
        return interop.load_autoencoder(path)


def digest_of(autoencoder: interop.Autoencoder) -> str:
    """Identifies an autoencoder: its weights, scale and shift."""
    return pytrees.digest(autoencoder)


class Decoder(NamedTuple):
    """From latents to stored values of pictures.

    Fields:
      decode_fn: floats [width, *event] to images in about [-1, 1], compiled.
      width: of a batch.
      event_shape: of a picture.
      digest: of the autoencoder.
    """

    decode_fn: Callable[[Any], jax.Array]
    width: int
    event_shape: tuple[int, ...]
    digest: str

    def images(self, z: np.ndarray) -> np.ndarray:
        """The pictures of latents [n, *event], floats [n, height, width, channels].

        Raises:
          Diverged: a picture is not finite.
        """
        found = []
        for start in range(0, len(z), self.width):
            index = np.minimum(np.arange(start, start + self.width), len(z) - 1)
            kept = min(self.width, len(z) - start)
            found.append(np.asarray(self.decode_fn(z[index]))[:kept])
        images = np.concatenate(found)
        if not np.isfinite(images).all():
            raise Diverged(
                "decoded pictures are not finite, and none of them is written: is the "
                "autoencoder the one whose latents the run was trained on?"
            )
        return images


def decoder(path: str, event_shape: tuple[int, ...]) -> Decoder:
    """Opens an autoencoder to decode samples with.

    Args:
      path: of `--autoencoder`.
      event_shape: of the latents.

    Raises:
      UsageError: it cannot be opened, or its latents are of another shape.
    """
    autoencoder = opened(path)
    module = autoencoder.module
    if len(event_shape) != 3 or event_shape[-1] != module.latent_channels:
        raise UsageError(
            f"--autoencoder={path}: its latents are [height, width, "
            f"{module.latent_channels}], and samples of the run have shape "
            f"{list(event_shape)}: take the autoencoder that the run's latents are of"
        )
    mesh = sharding.data_mesh()
    along = sharding.along_batch(mesh)
    placed = jax.device_put(autoencoder, sharding.replicated(mesh))
    program = jax.jit(
        lambda autoencoder, z: autoencoder.decode(z),
        compiler_options=sharding.compiler_options(),
    )
    height, width = (size * module.factor for size in event_shape[:2])
    return Decoder(
        lambda z: program(placed, jax.device_put(np.asarray(z, np.float32), along)),
        WIDTH * mesh.size,
        (height, width, module.out_channels),
        digest_of(autoencoder),
    )
