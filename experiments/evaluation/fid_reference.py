"""Moments of Inception's features: of samples, and of what they are compared with."""

import hashlib
import math
import pathlib
import zipfile
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import numpy as np

from diffusionflow import metrics
from diffusionflow.interop import read_weights
from diffusionflow.metrics.frechet import factored_moments
from diffusionflow.networks.inception import Inception, inception_params
from experiments.config import build
from experiments.data.base import DataSet
from experiments.data.fingerprint import digest_of
from experiments.data.latent_folder import archive_digest
from experiments.evaluation.fid_inputs import PROTOCOLS
from experiments.evaluation.result_cache import Chunks
from experiments.runtime import files, progress
from experiments.runtime.errors import UsageError, naming, require
from experiments.sampling import autoencoder

BATCH = 25  # pictures at a time: 1 GB of activations
FEATURES = 2048
FeaturesFn = Callable[[np.ndarray], np.ndarray]


class Reference(NamedTuple):
    """What samples are compared with.

    Fields:
      words: what it is.
      digest: of the statistics or of the images.
      reasons: in what it differs from published references.
      moments: of the features; None of images, whose features are not computed yet.
      num_images: how many.
      batches_fn: gives their pictures of 256 levels, `BATCH` at a time.
    """

    words: str
    digest: str
    reasons: tuple[str, ...] = ()
    moments: metrics.FeatureMoments | None = None
    num_images: int = 0
    batches_fn: Callable[[], Iterator[np.ndarray]] = lambda: iter(())


def features_fn(inception: str, protocol: str) -> tuple[FeaturesFn, str]:
    """Loads Inception: uint8 [n, height, width, 1 or 3] to its features [n, 2048].

    Args:
      inception: file of its weights, which is read once.
      protocol: one of `PROTOCOLS`.

    Returns:
      The function, and the SHA-256 of the file.

    Raises:
      UsageError: it is no file of Inception's weights, or not one alone.
    """
    path = pathlib.Path(inception)
    with naming("--inception"), progress.announced("reading Inception's weights"):
        if not path.is_file():
            raise ValueError(f"{inception}: must be a local file, as its digest counts")
        content = path.read_bytes()
        params = inception_params(read_weights(path, content=content))
    digest = hashlib.sha256(content).hexdigest()
    apply = jax.jit(lambda params, x: Inception().apply({"params": params}, x))
    input_fn = PROTOCOLS[protocol].input_fn

    def run(x: np.ndarray) -> np.ndarray:
        x = np.broadcast_to(x, (*x.shape[:-1], 3))
        more = np.repeat(x[-1:], BATCH - len(x), axis=0)
        inputs = input_fn(np.concatenate([x, more]))
        return np.asarray(apply(params, inputs), np.float64)[: len(x)]

    return run, digest


def _moments(
    batches: Iterator[np.ndarray], features_fn: FeaturesFn, count: int, what: str
) -> metrics.FeatureMoments:
    """Computes mean and covariance of the features of `count` pictures, in float64.

    Sums are of differences from the features of the first batch, so that little is lost
    where the mean is large.
    """
    require("num_samples", count, count > 1, "at least 2")
    origin, total, products = None, np.zeros(FEATURES), np.zeros((FEATURES,) * 2)
    with progress.PartProgress(f"features of {what}", count, "pictures") as reported:
        for batch in batches:
            found = features_fn(batch)
            origin = found.mean(0) if origin is None else origin
            centred = found - origin
            total += centred.sum(0)
            products += centred.T @ centred
            reported.advance(len(batch))
    mean = total / count
    covariance = (products - count * np.outer(mean, mean)) / (count - 1)
    return metrics.FeatureMoments(mean + origin, covariance)


def moments_of(
    reference: Reference, features_fn: FeaturesFn, cache: Chunks
) -> metrics.FeatureMoments:
    """Returns the moments of a reference; those of images from the cache if there."""
    if reference.moments is not None:
        return reference.moments
    compute = lambda: _moments(
        reference.batches_fn(), features_fn, reference.num_images, "reference images"
    )
    return _cached(cache, f"reference-{reference.digest}", compute)


def of_samples(
    path: pathlib.Path, features_fn: FeaturesFn, cache: Chunks
) -> metrics.FeatureMoments:
    """Computes the moments of the pictures in a result of `diffusionflow sample`."""
    count = len(files.read_npz(path, "labels")["labels"])
    compute = lambda: _moments(_batches(path), features_fn, count, "samples")
    return _cached(cache, f"samples-{archive_digest(path)}", compute)


def _cached(
    cache: Chunks, name: str, compute: Callable[[], metrics.FeatureMoments]
) -> metrics.FeatureMoments:
    return metrics.FeatureMoments(**cache.get(name, lambda: compute()._asdict()))


def _batches(path: pathlib.Path) -> Iterator[np.ndarray]:
    """Reads a result's pictures, of 256 levels, `BATCH` at a time as they are asked."""
    levels = files.read_npz(path, "levels")["levels"]
    with zipfile.ZipFile(path) as file, file.open("samples.npy") as array:
        version = np.lib.format.read_magic(array)
        read_header = getattr(np.lib.format, f"read_array_header_{version[0]}_0")
        (count, *event), _, dtype = read_header(array)
        for start in range(0, count, BATCH):
            shape = (min(BATCH, count - start), *event)
            content = array.read(math.prod(shape) * dtype.itemsize)
            yield _in_256(np.frombuffer(content, dtype).reshape(shape), int(levels))


def _in_256(x: np.ndarray, levels: int) -> np.ndarray:
    """Converts stored values of any number of levels to those of 256."""
    if levels == 256:
        return x
    return np.rint(x * (255 / (levels - 1))).astype(np.uint8)


def published(path: str | None) -> Reference | None:
    """Reads a reference, `mu` and `sigma` of an `.npz`; None of a folder or no path."""
    if path is None or pathlib.Path(path).is_dir():
        return None
    with naming("--reference"):
        if not path.endswith(".npz") or not pathlib.Path(path).is_file():
            raise ValueError(
                f"{path}: must be an .npz with mu and sigma, or a folder of images"
            )
        found = files.read_npz(pathlib.Path(path), "mu", "sigma")
        mean, covariance = (np.asarray(found[k], np.float64) for k in ("mu", "sigma"))
        if (mean.shape, covariance.shape) != ((FEATURES,), (FEATURES,) * 2):
            raise ValueError(
                f"{path}: mu and sigma of shapes {mean.shape} and {covariance.shape}: "
                f"must be of {FEATURES} features"
            )
        moments = metrics.FeatureMoments(mean, covariance)
        _check(path, moments)
    digest = hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest()[:16]
    return Reference(f"statistics of {path} ({digest})", digest, moments=moments)


def _check(path: str, moments: metrics.FeatureMoments) -> None:
    """Raises a `ValueError` unless a Frechet distance from these moments exists."""
    if not all(np.isfinite(part).all() for part in moments):
        raise ValueError(f"{path}: mu and sigma must be finite")
    with progress.announced("checking the reference"):
        try:
            factored_moments(moments)
        except ValueError as error:
            raise ValueError(f"{path}: sigma is no {error}") from error


def of_images(path: str | None, dataset: DataSet, size: tuple[int, ...]) -> Reference:
    """Makes the reference of all images of a folder, or of the training data.

    Args:
      path: of the folder; None for the training data.
      dataset: of the run.
      size: (height, width) of the samples.

    Raises:
      UsageError: the images are of another size, or fewer than 2.
    """
    if path is not None:
        dataset = build.dataset({"name": "folder", "path": path})
    if dataset.event_shape[:2] != size:
        raise UsageError(
            f"--reference: images of {list(dataset.event_shape)}, and samples of "
            f"{list(size)}: must be of one size, as other sizes have other statistics"
        )
    parts = [dataset.train, dataset.test] if path is not None else [dataset.train]
    count = sum(len(part.labels) for part in parts)
    require("reference", f"{count} images", count > 1, "at least 2")
    levels = dataset.transform.levels or 256

    def batches() -> Iterator[np.ndarray]:
        for part in parts:
            for start in range(0, len(part.labels), BATCH):
                rows = np.arange(start, min(start + BATCH, len(part.labels)))
                values = part.values[rows]
                if values.dtype.kind == "f":
                    values = autoencoder.PICTURES.to_stored(values)
                yield _in_256(values, levels)

    few = (f"a reference of {count:,} images alone",) if count <= FEATURES else ()
    words = f"{count:,} images of {path or 'the training data'}"
    digest = digest_of(path is None, dataset.identity())
    return Reference(words, digest, few, None, count, batches)
