"""Encodes a data set into moments of an autoencoder's latents, shard by shard.

The result is a folder, which the data source `latents` reads row by row: `index.json`
(`data.latent_folder`), and an `.npz` for each shard of `train.shards` and
`test.shards`, with the arrays `mean` and `std` [n, height, width, channels] of latents
of unit scale, `z = scale (mean + std eps - shift)` with the factors of the
autoencoder's config applied, `labels` and, where the data have them, `conditions`. With
flips, `mean_flipped` and `std_flipped` are those of the mirrored images.

Stopped or killed, the same call goes on with the next shard. What is encoded is the
same for any size of batch and shard, up to rounding.
"""

import contextlib
import functools
import json
import os
import pathlib
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from diffusionflow import interop
from experiments.config import build, registry
from experiments.data import latent_folder
from experiments.data.base import DataSet, DataTransform, Examples
from experiments.runtime import files, progress, sharding
from experiments.runtime.errors import Diverged, UsageError, naming, require
from experiments.runtime.signals import Stopped, stopping
from experiments.sampling.autoencoder import digest_of, opened
from experiments.sampling.shards import Shards

EncodeFn = Callable[[Any], Any]


class Settings(NamedTuple):
    """What to encode.

    Fields:
      data: a folder of images, an `.npz`, or a source with its arguments, such as
        `folder(path='photos', size=(256, 256))`.
      autoencoder: path of a folder that `interop.load_autoencoder` opens.
      out: folder of the result.
      flip: whether mirrored training images are encoded too.
      tile: side of overlapping tiles that are encoded one by one; None for none.
      batch_size: images that a device encodes at once.
      shard_size: images of a shard.
    """

    data: str
    autoencoder: str
    out: str
    flip: bool = False
    tile: int | None = None
    batch_size: int = 8
    shard_size: int = 1024


def encode(settings: Settings) -> pathlib.Path:
    """Encodes a data set; a folder that is complete already is only checked.

    Args:
      settings: what to encode.

    Returns:
      The folder.

    Raises:
      UsageError: the autoencoder or the data cannot be read or do not fit each other,
        or the folder holds what was encoded with other settings.
      Stopped: at SIGTERM or Ctrl-C.
    """
    section = data_section(settings.data)
    with stopping():
        autoencoder = opened(settings.autoencoder)
        _check_tile(settings.tile, autoencoder.module.factor)
        with progress.announced("reading the data"):
            dataset = build.dataset(section)
        with naming("--data"):
            _check(dataset, autoencoder.module)
        out = pathlib.Path(settings.out)
        facts = _facts(settings, dataset, autoencoder)
        parts = {"train": dataset.train, "test": dataset.test}
        with _held(out, facts, parts, settings.shard_size) as shards:
            for name, part in parts.items():
                flip = settings.flip and name == "train"
                encode_fn = _encode_fn(autoencoder, dataset.transform, settings, flip)
                _fill(name, shards[name], part, encode_fn, settings.batch_size)
            _conclude(out, shards, facts, dataset)
    return out


def data_section(text: str) -> dict[str, Any]:
    """Makes the section `data` of a config that `--data` stands for.

    Raises:
      UsageError: there is no such folder or file, and it is no source.
    """
    if os.path.isdir(text):
        return {"name": "folder", "path": text}
    if text.endswith(".npz") and os.path.isfile(text):
        return {"name": "npz", "path": text}
    called = "(" in text or ":" in text
    if not called and text not in registry.DATASETS:
        raise UsageError(
            f"--data={text}: no such folder or .npz; give one, or a source with its "
            "arguments, such as \"folder(path='photos', size=(256, 256))\""
        )
    return {"name": text}


def _check_tile(tile: int | None, factor: int) -> None:
    fits = tile is None or tile % (4 * factor) == 0
    require("tile", tile, fits, f"a multiple of {4 * factor}: a quarter overlaps")


def _check(dataset: DataSet, module: Any) -> None:
    """Raises a `ValueError` unless the data are images that the autoencoder takes."""
    shape = dataset.event_shape
    side, channels = module.factor, module.in_channels
    fits = len(shape) == 3 and shape[-1] == channels
    if not fits or any(size % side for size in shape[:2]):
        raise ValueError(
            f"events of shape {list(shape)}: must be [height, width, {channels}], the "
            f"sides multiples of {side}, as the autoencoder takes them"
        )
    if dataset.train.mask is not None or dataset.train.noise is not None:
        raise ValueError("masks and pairs cannot be encoded; leave them out")
    if dataset.augment_fn is not None:
        raise ValueError("flips are drawn of the data: leave them out, and give --flip")


def _facts(
    settings: Settings, dataset: DataSet, autoencoder: interop.Autoencoder
) -> dict[str, Any]:
    """Returns what the moments depend on, as plain JSON values."""
    scales = {"scale": autoencoder.scale, "shift": autoencoder.shift}
    return json.loads(
        json.dumps(
            {
                "data": settings.data,
                "examples": dataset.identity(),
                "autoencoder": digest_of(autoencoder),
                "flip": settings.flip,
                "tile": settings.tile,
                **{name: np.asarray(each).tolist() for name, each in scales.items()},
            }
        )
    )


@contextlib.contextmanager
def _held(
    out: pathlib.Path, facts: dict[str, Any], parts: dict[str, Examples], size: int
) -> Any:
    """Holds the shards of all parts; says at a stop what is kept."""
    settings = facts | {"shard_size": size}
    if "path" in data_section(facts["data"]):
        del settings["data"]  # a path, which may be written in many ways: `examples`
    shards = {
        name: Shards(
            out / name,
            settings,
            count=len(part.labels),
            size=size,
        )
        for name, part in parts.items()
    }
    try:
        with contextlib.ExitStack() as stack:
            for each in shards.values():
                each.begin(stack)
            yield shards
    except Stopped as stopped:
        done = sum(each.num_finished() for each in shards.values())
        total = sum(len(each.bounds) for each in shards.values())
        stopped.kept = (
            f"{done} of {total} shards are in {out}; the same command goes on"
        )
        raise


def _encode_fn(
    autoencoder: interop.Autoencoder,
    transform: DataTransform,
    settings: Settings,
    flip: bool,
) -> EncodeFn:
    """Makes `stored values [b, *event] -> dict of moments`, for all devices."""
    mesh = sharding.data_mesh()
    along = sharding.along_batch(mesh)
    placed = jax.device_put(autoencoder, sharding.replicated(mesh))

    @functools.partial(jax.jit, compiler_options=sharding.compiler_options())
    def program(autoencoder: interop.Autoencoder, stored: jax.Array) -> Any:
        x = transform.to_float(stored)
        views = {"": x} | ({"_flipped": x[:, :, ::-1]} if flip else {})
        found: dict[str, Any] = {}
        for end, view in views.items():
            moments = autoencoder.encode(view, tile=settings.tile)
            found |= {f"{key}{end}": each for key, each in moments._asdict().items()}
        return found

    return lambda stored: program(placed, jax.device_put(stored, along))


def _fill(
    name: str,
    shards: Shards,
    part: Examples,
    encode_fn: EncodeFn,
    batch_size: int,
) -> None:
    """Encodes the shards that are not there."""
    count, done, begin = len(part.labels), 0, time.perf_counter()
    width = batch_size * jax.local_device_count()
    meter = progress.SamplingProgress(count, unit="image")
    with contextlib.closing(meter):
        for number, start, stop in shards.missing(meter.skip):
            moments = _encoded(part, encode_fn, start, stop, width, meter.advance)
            _check_finite(name, moments, start)
            arrays = {key: np.ascontiguousarray(each) for key, each in moments.items()}
            arrays["labels"] = part.labels[start:stop]
            if part.conditions is not None:
                arrays["conditions"] = part.conditions[start:stop]
            shards.write(number, outside=0, **arrays)
            done += stop - start
            meter.shard()
    seconds = time.perf_counter() - begin
    print(f"{name}: encoded {done:,} of {count:,} images in {seconds:.1f} s")


def _encoded(
    part: Examples,
    encode_fn: EncodeFn,
    start: int,
    stop: int,
    width: int,
    advance_fn: Callable[[int], None],
) -> dict[str, np.ndarray]:
    """Encodes the examples `start` to `stop - 1` to moments, in batches of one width.

    The next batch is read while the devices compute.
    """
    firsts = range(start, stop, width)
    rows = lambda first: part.values[
        np.minimum(np.arange(first, first + width), stop - 1)
    ]
    found, stored = [], rows(start)
    for first in firsts:
        moments = encode_fn(stored)
        if first + width < stop:
            stored = rows(first + width)
        kept = min(width, stop - first)
        found.append(jax.tree.map(lambda each, n=kept: np.asarray(each)[:n], moments))
        advance_fn(kept)
    return jax.tree.map(lambda *each: np.concatenate(each), *found)


def _check_finite(name: str, moments: dict[str, np.ndarray], start: int) -> None:
    """Raises `Diverged` where moments are not finite: they are no result."""
    for key, each in moments.items():
        finite = np.isfinite(each.reshape(len(each), -1)).all(1)
        if not finite.all():
            raise Diverged(
                f"{key} of {(~finite).sum():,} images of {name} is not finite, the "
                f"first of number {start + int(np.argmin(finite)):,}; nothing of this "
                "shard is written: check the images and the autoencoder"
            )


def _conclude(
    out: pathlib.Path,
    shards: dict[str, Shards],
    facts: dict[str, Any],
    dataset: DataSet,
) -> None:
    """Writes the index of the folder, and says so."""
    index = {
        "format": latent_folder.FORMAT,
        **facts,
        "num_classes": dataset.num_classes,
        "class_names": list(dataset.class_names),
        "shards": {
            name: [
                latent_folder.entry(out, each.path(number), stop - start)
                for number, (start, stop) in enumerate(each.bounds)
            ]
            for name, each in shards.items()
        },
    }
    with files.atomic_write(out / latent_folder.INDEX) as temporary:
        files.write_json(temporary, index)
    shape = latent_folder.read(out).event_shape
    print(
        f"latents of shape {list(shape)}, scale {facts['scale']}, shift "
        f"{facts['shift']}, autoencoder {facts['autoencoder']}\n{out}",
        flush=True,
    )
