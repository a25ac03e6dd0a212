"""Computes an FID by a published protocol, and says whether it compares.

It compares where nothing that published numbers share differs: 50,000 samples with
classes in the proportion of the training data, colour pictures of 256 levels,
Inception's published weights, and reference statistics that were published, or of all
images of a folder or of the training data.
"""

import hashlib
import json
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from diffusionflow import metrics
from experiments.checkpointing import restore
from experiments.checkpointing.loaded import Loaded, real_data
from experiments.checkpointing.loaded import Request as LoadRequest
from experiments.data.base import DataSet
from experiments.evaluation import fid_reference, fid_result, sample_quality
from experiments.evaluation.result_cache import FOLDER, ResultCache
from experiments.runtime import files, progress
from experiments.runtime.errors import UsageError
from experiments.runtime.signals import stopping
from experiments.sampling import autoencoder, generate, shards
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
    out = fid_result.checked_path(settings.out, workdir / f"{settings.protocol}.json")
    with stopping():
        asked = _prepared(workdir, settings)
        facts = _facts(settings.protocol, asked)
        result = fid_result.finished(out, facts)
        if result is not None:
            print(f"evaluated already: {out}", flush=True)
        else:
            value = _distance(asked, facts)
            recipe = generate.summary(asked.loaded.request)
            words, reasons = asked.reference.words, _reasons(asked)
            result = fid_result.make(facts, recipe, value, words, reasons)
            with files.atomic_write(out) as temporary:
                files.write_json(temporary, result)
    print(f"{fid_result.words(result)}\n{out}", flush=True)
    return out


class Asked(NamedTuple):
    """What is compared, read and checked before a sample is drawn.

    Fields:
      workdir: of the run.
      loaded: its weights, and the request.
      dataset: its real data.
      codec: of latents; None of pictures.
      stored: what samples are.
      reference: what they are compared with.
      features_fn: from pictures to features.
      inception: SHA-256 of the file of weights.
    """

    workdir: pathlib.Path
    loaded: Loaded
    dataset: DataSet
    codec: autoencoder.Codec | None
    stored: generate.Stored
    reference: fid_reference.Reference
    features_fn: fid_reference.FeaturesFn
    inception: str


def _prepared(workdir: pathlib.Path, settings: Settings) -> Asked:
    """Reads and checks all that a number depends on, what is cheap first."""
    _check_reference(settings)
    asked = _request(workdir, settings)
    described = restore.describe(workdir, asked)
    _check_conditions(described)
    if settings.autoencoder is None:
        _check_pictures(generate.stored(described.model, None))
    reference = fid_reference.published(settings.reference)
    codec = None
    if settings.autoencoder is not None:
        shape, identity = described.model.event_shape, described.identity
        codec = autoencoder.open_codec(settings.autoencoder, shape, identity)
    stored = generate.stored(described.model, codec)
    _check_pictures(stored)
    features_fn, digest = fid_reference.features_fn(
        settings.inception, settings.protocol
    )
    with progress.announced("loading the weights and the data"):
        loaded = restore.load(workdir, asked)
        dataset = real_data(loaded)
    if reference is None:
        size = stored.event_shape[:2]
        reference = fid_reference.of_images(settings.reference, dataset, size)
    return Asked(
        workdir, loaded, dataset, codec, stored, reference, features_fn, digest
    )


def _facts(protocol: str, asked: Asked) -> dict[str, Any]:
    """Returns what the FID depends on, as plain JSON values."""
    of_samples = generate.settings(asked.loaded.request, asked.loaded.digest)
    del of_samples["shard_size"]
    own = {
        "protocol": protocol,
        "inception": asked.inception,
        "reference": asked.reference.digest,
        "autoencoder": asked.codec and asked.codec.digest,
    }
    return json.loads(json.dumps(own | of_samples))


def _distance(asked: Asked, facts: Mapping[str, Any]) -> float:
    """Computes the FID of samples, which are drawn unless they are there."""
    path = _sampled(asked)
    known = {name: facts[name] for name in ("protocol", "inception")}
    cache = ResultCache(asked.workdir / FOLDER).chunks("fid", known)
    sampled = fid_reference.of_samples(path, asked.features_fn, cache)
    expected = fid_reference.moments_of(asked.reference, asked.features_fn, cache)
    return metrics.frechet_distance(sampled, expected)


def _request(workdir: pathlib.Path, settings: Settings) -> LoadRequest:
    """Makes the request for the samples that are drawn."""
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


def _check_conditions(described: Loaded) -> None:
    if described.model.vector_features:
        raise UsageError(
            "--protocol: samples of a run with condition vectors depend on these; "
            "there is no published protocol for them"
        )


def _check_pictures(stored: generate.Stored) -> None:
    shape = stored.event_shape
    if len(shape) != 3 or shape[-1] not in (1, 3):
        raise UsageError(
            f"--protocol: samples of shape {list(shape)} are no pictures with 1 or 3 "
            "channels; give --autoencoder where they are latents"
        )
    if stored.transform.levels is None:
        raise UsageError(
            f"--protocol: samples of shape {list(shape)} are floats: must be pictures "
            "with levels; give --autoencoder where they are latents"
        )


def labels_in_proportion(counts: np.ndarray, total: int) -> np.ndarray:
    """Makes labels int32 [total] of classes as often as in the data, spread evenly.

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


def _sampled(asked: Asked) -> pathlib.Path:
    """Draws the samples, unless they are there; returns their path."""
    loaded, workdir = asked.loaded, asked.workdir
    labels = asked.dataset.train.labels
    counts = np.bincount(labels, minlength=max(1, loaded.model.num_classes))
    labels = labels_in_proportion(counts, loaded.request.num_samples)
    digest = hashlib.sha256(labels.tobytes()).hexdigest()[:16]
    plan = Plan(None, {"labels": digest}, "_in-proportion", ", classes in proportion")
    path = generate.samples_path(workdir, loaded.request, plan, asked.codec)
    new = shards.quarantine(path, "parameters", loaded.digest)
    if new is not None:
        print(
            f"{path} was sampled before the run was trained again, from other weights "
            f"of step {loaded.request.step:,}: quarantined as {new}",
            flush=True,
        )
    given = Conditions(labels)
    return generate.write_samples(workdir, loaded, given, plan, asked.codec)


def _reasons(asked: Asked) -> list[str]:
    """Lists why the FID does not compare with published ones; empty where it does."""
    count, stored = asked.loaded.request.num_samples, asked.stored
    levels = stored.transform.levels
    found = {
        f"{count:,} samples, not {COUNT:,}": count != COUNT,
        f"pictures of {stored.event_shape[-1]} channel, not 3": (
            stored.event_shape[-1] != 3
        ),
        f"pictures of {levels} levels, not 256": levels != 256,
        "weights of Inception in another file than the published "
        f"pt_inception-2015-12-05-{PUBLISHED_WEIGHTS}.pth": (
            not asked.inception.startswith(PUBLISHED_WEIGHTS)
        ),
    }
    if asked.codec is not None:
        found[asked.codec.doubt] = bool(asked.codec.doubt)
    reasons = [reason for reason, holds in found.items() if holds]
    return [*reasons, *asked.reference.reasons]
