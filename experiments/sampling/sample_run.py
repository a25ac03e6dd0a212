"""Samples a run: from one of its checkpoints to files."""

import pathlib

from experiments.checkpointing import restore
from experiments.checkpointing.loaded import Request
from experiments.config import grid_check
from experiments.runtime.progress import announced
from experiments.runtime.signals import stopping
from experiments.sampling import autoencoder, generate, requested
from experiments.sampling.editing import planned


def sample_run(workdir: str | pathlib.Path, request: Request) -> pathlib.Path:
    """Samples from a run's checkpoint; writes an `.npz` and, if it can, a picture.

    Of a request with an autoencoder the samples are latents, which it decodes.
    Of a request with options of `edit_options` it samples what these say, with an
    autoencoder in the latents of the pictures. The `.npz`
    holds `samples` (stored values [n, *event]: uint8 of `levels` levels, or
    floats), `labels` [n], `conditions` [n, k] if there are any, and how they were
    sampled.
    They are sampled in shards, which are kept when the process is stopped or killed:
    the same call goes on with the next one. A result that is there already is left as
    it is.

    Args:
      workdir: of the run.
      request: what to sample.

    Returns:
      The path of the `.npz`.

    Raises:
      UsageError: if there is no such checkpoint, a setting does not fit it, or the
        files are those of other settings.
      Stopped: at SIGTERM or Ctrl-C.
    """
    workdir = pathlib.Path(workdir)
    with stopping():
        codec = _codec(workdir, request)
        request, plan = planned(workdir, request, codec)
        with announced("loading the weights"):
            loaded = restore.load(workdir, request)
        grid_check.warn_of_other_sampler(loaded.request.sampler)
        given = requested.of_samples(loaded)
        return generate.write_samples(workdir, loaded, given, plan, codec)


def _codec(workdir: pathlib.Path, request: Request) -> autoencoder.Codec | None:
    """Opens the codec of a request's samples; checked before weights are read."""
    if request.autoencoder is None:
        return None
    run = restore.describe(workdir, request)
    shape, identity = run.model.event_shape, run.identity
    return autoencoder.open_codec(request.autoencoder, shape, identity)
