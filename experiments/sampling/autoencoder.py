"""Opens an autoencoder: sampled latents to pictures, and pictures to latents."""

import pathlib
from collections.abc import Callable, Iterator, Mapping
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
    """Opens the autoencoder of `--autoencoder`.

    Raises:
      UsageError: it cannot be opened.
    """
    with naming("--autoencoder"), progress.announced("opening the autoencoder"):
        return interop.load_autoencoder(path)


def digest_of(autoencoder: interop.Autoencoder) -> str:
    """Identifies an autoencoder: its weights, scale and shift."""
    return pytrees.digest(autoencoder)


class Codec(NamedTuple):
    """From latents to stored values of pictures, and back.

    Fields:
      decode_fn: floats [width, *event] to images in about [-1, 1], compiled.
      encode_fn: images [width, *event_shape] in [-1, 1] to the means of their latents,
        scaled and shifted as the run's are; compiled.
      width: of a batch.
      event_shape: of a picture.
      digest: of the autoencoder.
      doubt: why its pictures may not be those of the run's latents; empty where the
        autoencoder is the one that encoded them.
    """

    decode_fn: Callable[[Any], jax.Array]
    encode_fn: Callable[[Any], jax.Array]
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
        for start, x in self._batches(self.decode_fn, z):
            if not np.isfinite(x).all():
                raise Diverged(
                    "decoded pictures are not finite, and none of them is written: is "
                    "the autoencoder the one whose latents the run was trained on?"
                )
            outside += round(PICTURES.clamped_fraction(x) * x.size)
            found[start : start + len(x)] = PICTURES.to_stored(x)
        return found, outside

    def latents(self, x: np.ndarray) -> np.ndarray:
        """Encodes pictures: the mean of the latents of each, not a sample of them.

        Args:
          x: floats in [-1, 1], [n, height, width, channels].

        Returns:
          float32 [n, *event].

        Raises:
          Diverged: a latent is not finite.
        """
        batches = [z for _, z in self._batches(self.encode_fn, x)]
        found = np.concatenate(batches).astype(np.float32)
        if not np.isfinite(found).all():
            raise Diverged("the latents of the pictures are not finite")
        return found

    def _batches(
        self, fn: Callable[[Any], jax.Array], arrays: np.ndarray
    ) -> Iterator[tuple[int, np.ndarray]]:
        """Yields a batch's start and what `fn` makes of it; the last is filled up."""
        for start in range(0, len(arrays), self.width):
            index = np.minimum(np.arange(start, start + self.width), len(arrays) - 1)
            kept = min(self.width, len(arrays) - start)
            yield start, np.asarray(fn(arrays[index]))[:kept]


def open_codec(
    path: str, event_shape: tuple[int, ...], identity: Mapping[str, Any]
) -> Codec:
    """Opens an autoencoder to decode the samples of a run, and to encode pictures.

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

    def compiled(fn: Callable[..., jax.Array]) -> Callable[[Any], jax.Array]:
        program = jax.jit(fn, compiler_options=sharding.compiler_options())
        put = lambda batch: jax.device_put(np.asarray(batch, np.float32), along)
        return lambda batch: program(placed, put(batch))

    height, width = (size * module.factor for size in event_shape[:2])
    return Codec(
        compiled(lambda autoencoder, z: autoencoder.decode(z)),
        compiled(lambda autoencoder, x: autoencoder.encode(x).mean),
        WIDTH * mesh.size,
        (height, width, module.out_channels),
        digest,
        doubt,
    )


def _doubt(
    path: str, autoencoder: Any, digest: str, identity: Mapping[str, Any]
) -> str:
    """Says why an autoencoder may not be the one that encoded a run's latents.

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
    """Returns whether numbers, or one number and several, are equal up to rounding."""
    try:
        return bool(np.allclose(there, here, rtol=1e-6, atol=0))
    except (TypeError, ValueError):
        return False
