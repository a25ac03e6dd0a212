"""Opens an autoencoder, and decodes sampled latents into pictures."""

import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from diffusionflow import interop
from experiments.data import latent_folder
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
      doubt: why its pictures may not be those of the run's latents; empty where the
        autoencoder is the one that encoded them.
    """

    decode_fn: Callable[[Any], jax.Array]
    width: int
    event_shape: tuple[int, ...]
    digest: str
    doubt: str = ""

    def pictures(self, z: np.ndarray) -> tuple[np.ndarray, int]:
        """Decodes latents [n, *event], one batch of floats at a time.

        Returns:
          Stored values uint8 [n, height, width, channels], and how many were clamped.

        Raises:
          Diverged: a picture is not finite.
        """
        found = np.empty((len(z), *self.event_shape), np.uint8)
        outside = 0
        for start in range(0, len(z), self.width):
            index = np.minimum(np.arange(start, start + self.width), len(z) - 1)
            kept = min(self.width, len(z) - start)
            x = np.asarray(self.decode_fn(z[index]))[:kept]
            if not np.isfinite(x).all():
                raise Diverged(
                    "decoded pictures are not finite, and none of them is written: is "
                    "the autoencoder the one whose latents the run was trained on?"
                )
            outside += round(PICTURES.clamped_fraction(x) * x.size)
            found[start : start + kept] = PICTURES.to_stored(x)
        return found, outside


def decoder(
    path: str, event_shape: tuple[int, ...], identity: Mapping[str, Any]
) -> Decoder:
    """Opens an autoencoder to decode the samples of a run with.

    Where it may be another one than encoded the run's latents, a note is printed.

    Args:
      path: of `--autoencoder`.
      event_shape: of the latents.
      identity: of the run.

    Raises:
      UsageError: it cannot be opened, or its latents are of another shape, scale or
        shift than the run's.
    """
    autoencoder = opened(path)
    module = autoencoder.module
    if len(event_shape) != 3 or event_shape[-1] != module.latent_channels:
        raise UsageError(
            f"--autoencoder={path}: its latents are [height, width, "
            f"{module.latent_channels}], and samples of the run have shape "
            f"{list(event_shape)}: take the autoencoder that the run's latents are of"
        )
    digest = digest_of(autoencoder)
    doubt = _doubt(path, autoencoder, digest, identity)
    if doubt:
        print(f"note: {doubt}", flush=True)
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
        digest,
        doubt,
    )


def _doubt(
    path: str, autoencoder: Any, digest: str, identity: Mapping[str, Any]
) -> str:
    """Why an autoencoder may be another one than encoded a run's latents.

    Args:
      path: of `--autoencoder`.
      autoencoder: with `scale` and `shift`.
      digest: of it.
      identity: of the run.

    Raises:
      UsageError: scale or shift differ.
    """
    original = identity["examples"].get("original")
    section = original["data"] if original else identity["config"]["data"]
    folder = pathlib.Path(section.get("path") or "/")
    if section["name"] != "latents" or not (folder / latent_folder.INDEX).is_file():
        return (
            f"whether --autoencoder={path} encoded the run's latents is not known: "
            "no folder of diffusionflow encode is at config.data.path"
        )
    with naming("config.data.path"):
        index = latent_folder.read_index(folder)
    for name in ("scale", "shift"):
        there, here = index.get(name), np.asarray(getattr(autoencoder, name)).tolist()
        if there is not None and not _equal(there, here):
            raise UsageError(
                f"--autoencoder={path}: {name} {here}, and that of the latents in "
                f"{folder} is {there}: take the autoencoder that encoded them"
            )
    if index.get("autoencoder") == digest:
        return ""
    return f"--autoencoder={path} has other weights than the one that encoded {folder}"


def _equal(there: Any, here: Any) -> bool:
    """Whether numbers, or one number and several, are equal up to rounding."""
    try:
        return bool(np.allclose(there, here, rtol=1e-6, atol=0))
    except (TypeError, ValueError):
        return False
