"""Computes an FID by a published protocol, and says whether it compares.

It compares where nothing that published numbers share differs: 50,000 samples with
classes in the proportion of the training data, colour pictures of 256 levels,
Inception's published weights, and reference statistics that were published, or of all
images of a folder or of the training data.
"""

import hashlib
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from diffusionflow import metrics
from experiments.checkpointing import restore
from experiments.checkpointing.loaded import Loaded, real_data
from experiments.checkpointing.loaded import Request as LoadRequest
from experiments.data.base import DataSet
from experiments.evaluation import fid_reference, sample_quality
from experiments.evaluation.fid_inputs import PROTOCOLS
from experiments.runtime import files, progress
from experiments.runtime.errors import UsageError
from experiments.runtime.signals import stopping
from experiments.sampling import autoencoder, generate
from experiments.sampling.conditions import Conditions
from experiments.sampling.edits import Plan

COUNT = 50_000
# The name of the published file ends in the first digits of its SHA-256.
PUBLISHED_WEIGHTS = "6726825d"


class Settings(NamedTuple):
    """What is computed.

    Fields:
      protocol: one of `PROTOCOLS`.
      inception: file of Inception's weights.
      reference: `.npz` with `mu` and `sigma`, or a folder of images; None for all
        training images of the run.
      autoencoder: folder of the one that decodes latents; None for pictures.
      sampler: such as "ddim@50"; None for that of the config.
      num_samples: how many.
      guidance: scale, or None for that of the config.
      weights: "ema" or "raw".
      sigma_rel: width of the average, or None.
      step: of the checkpoint, or None for the newest.
      seed: of the samples.
      out: path of the result; None for one in the workdir.
    """

    protocol: str
    inception: str
    reference: str | None = None
    autoencoder: str | None = None
    sampler: str | None = None
    num_samples: int = COUNT
    guidance: float | None = None
    weights: str = "ema"
    sigma_rel: float | None = None
    step: int | None = None
    seed: int = 0
    out: str | None = None


def evaluate_fid(workdir: str | pathlib.Path, settings: Settings) -> pathlib.Path:
    """Samples a run, computes the FID, and writes it with what it depends on.

    Args:
      workdir: of the run.
      settings: of the protocol.

    Returns:
      The path of the result.

    Raises:
      UsageError: a file is missing or of another kind, or the run has no pictures.
      Stopped: at SIGTERM or Ctrl-C; the samples that are drawn are kept.
    """
    workdir = pathlib.Path(workdir)
    with stopping():
        reference = fid_reference.published(settings.reference)
        _check_reference(settings)
        asked = _request(workdir, settings)
        described = restore.describe(workdir, asked)
        decoder = None
        if settings.autoencoder is not None:
            shape = described.model.event_shape
            decoder = autoencoder.decoder(settings.autoencoder, shape)
        stored = generate.stored(described.model, decoder)
        _check_pictures(stored.event_shape)
        features_fn = fid_reference.features_fn(settings.inception, settings.protocol)
        with progress.announced("loading the weights and the data"):
            loaded = restore.load(workdir, asked)
            dataset = real_data(loaded)
        path = _sampled(workdir, loaded, dataset, decoder)
        sampled = fid_reference.of_samples(path, features_fn)
        if reference is None:
            size = stored.event_shape[:2]
            reference = fid_reference.of_images(
                settings.reference, dataset, size, features_fn
            )
    value = metrics.frechet_distance(sampled, reference.moments)
    reasons = [*_reasons(settings, stored), *reference.reasons]
    result = _result(settings, loaded, value, reasons, reference.words)
    out = pathlib.Path(settings.out or workdir / f"{settings.protocol}.json")
    with files.atomic_write(out) as temporary:
        files.write_json(temporary, result)
    print(f"{_words(result)}\n{out}", flush=True)
    return out


def _request(workdir: pathlib.Path, settings: Settings) -> LoadRequest:
    """The samples that are drawn."""
    asked = LoadRequest(
        num_samples=settings.num_samples,
        guidance=settings.guidance,
        weights=settings.weights,
        sigma_rel=settings.sigma_rel,
        step=settings.step,
        seed=settings.seed,
        autoencoder=settings.autoencoder,
    )
    if settings.sampler is None:
        return asked
    own = restore.describe(workdir, asked).config["sampler"]
    return asked._replace(sampler=sample_quality.sampler_section(settings.sampler, own))


def _check_reference(settings: Settings) -> None:
    if settings.reference is None and settings.autoencoder is not None:
        raise UsageError(
            "--reference: must be given with --autoencoder, an .npz with mu and sigma "
            "or the folder of images, of which the run has the latents alone"
        )


def _check_pictures(shape: tuple[int, ...]) -> None:
    if len(shape) != 3 or shape[-1] not in (1, 3):
        raise UsageError(
            f"--protocol: samples of shape {list(shape)} are no pictures with 1 or 3 "
            "channels; give --autoencoder where they are latents"
        )


def labels_in_proportion(counts: np.ndarray, total: int) -> np.ndarray:
    """Labels int32 [total] of classes as often as in the data, spread evenly.

    Each class has its share of `total`, rounded so that all add up (the largest
    remainders are rounded up); of equal counts they are 0, 1, ... in turn.

    Args:
      counts: examples of each class, [classes].
      total: number of labels.
    """
    share = counts * (total / counts.sum())
    quota = np.floor(share).astype(int)
    rest = np.argsort(quota - share, kind="stable")[: total - quota.sum()]
    quota[rest] += 1
    places = [(np.arange(each) + 0.5) / max(each, 1) for each in quota]
    labels = np.repeat(np.arange(len(counts), dtype=np.int32), quota)
    return labels[np.argsort(np.concatenate(places), kind="stable")]


def _sampled(
    workdir: pathlib.Path,
    loaded: Loaded,
    dataset: DataSet,
    decoder: autoencoder.Decoder | None,
) -> pathlib.Path:
    """Draws the samples, unless they are there; returns their path."""
    total, model = loaded.request.num_samples, loaded.model
    if model.vector_features:
        raise UsageError(
            "--protocol: samples of a run with condition vectors depend on these; "
            "there is no published protocol for them"
        )
    counts = np.bincount(dataset.train.labels, minlength=max(1, model.num_classes))
    labels = labels_in_proportion(counts, total)
    digest = hashlib.sha256(labels.tobytes()).hexdigest()[:16]
    plan = Plan(None, {"labels": digest}, "_in-proportion", ", classes in proportion")
    return generate.write_samples(workdir, loaded, Conditions(labels), plan, decoder)


def _reasons(settings: Settings, stored: generate.Stored) -> list[str]:
    """Why the number does not compare with published ones; empty where it does."""
    with pathlib.Path(settings.inception).open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    levels = stored.transform.levels
    found = {
        f"{settings.num_samples:,} samples, not {COUNT:,}": (
            settings.num_samples != COUNT
        ),
        f"pictures of {stored.event_shape[-1]} channel, not 3": (
            stored.event_shape[-1] != 3
        ),
        f"pictures of {levels} levels, not 256": levels != 256,
        "weights of Inception in another file than the published "
        f"pt_inception-2015-12-05-{PUBLISHED_WEIGHTS}.pth": (
            not digest.startswith(PUBLISHED_WEIGHTS)
        ),
    }
    return [reason for reason, holds in found.items() if holds]


def _result(
    settings: Settings,
    loaded: Loaded,
    value: float,
    reasons: list[str],
    reference: str,
) -> dict[str, Any]:
    """The number and what it depends on, as plain JSON values."""
    request = loaded.request
    return {
        "protocol": settings.protocol,
        "value": value,
        "comparable": not reasons,
        "reasons": reasons,
        "compares_with": PROTOCOLS[settings.protocol].words,
        "count": request.num_samples,
        "reference": reference,
        "recipe": generate.summary(request),
        "parameters": loaded.digest,
        "inception": settings.inception,
        "autoencoder": settings.autoencoder,
    }


def _words(result: Mapping[str, Any]) -> str:
    """The number on one line, and whether it compares on another."""
    line = f"{result['protocol']}: {result['value']:.4f}, {result['count']:,} samples"
    line += f" ({result['recipe']}), {result['reference']}"
    if result["comparable"]:
        return f"{line}\ncomparable with {result['compares_with']}"
    return f"{line}\nnot comparable: {'; '.join(result['reasons'])}"
