"""What a request makes of pictures or of two seeds, checked against its run."""

import pathlib
from typing import Any

import jax
import numpy as np

from diffusionflow import samplers
from experiments.checkpointing import restore
from experiments.checkpointing.loaded import Loaded, Request
from experiments.config import build
from experiments.runtime import progress
from experiments.runtime.errors import UsageError, naming, require
from experiments.sampling import edit_options, generate, pictures
from experiments.sampling.autoencoder import Codec
from experiments.sampling.edits import FROM_NOISE, FromPicture, Plan
from experiments.sampling.interpolation import BetweenPictures, BetweenSeeds
from experiments.sampling.inversion import RoundTrip, check_invertible


def planned(
    workdir: str | pathlib.Path, request: Request, codec: Codec | None
) -> tuple[Request, Plan]:
    """Reads what a request names, and checks it before weights are read.

    Args:
      workdir: of the run.
      request: what to sample.
      codec: of a run on latents, by which pictures become latents; None of other
        runs.

    Returns:
      The request, with as many samples as there are, and what they are made of.

    Raises:
      UsageError: a picture is no data of the run, the sampler cannot do what is asked
        for, or there is no such checkpoint.
    """
    if not request.edit:
        return request, FROM_NOISE
    edit_options.given(request.edit)
    run = restore.describe(pathlib.Path(workdir), request)
    sampler = build.sampler(run.request.sampler)
    times = build.grid(run.request.sampler, run.model.objective.schedule)
    if "interpolate" in request.edit:
        return _interpolation(run, request, sampler, codec)
    if "invert" in request.edit:
        return _round_trip(run, request, sampler, codec)
    return _from_picture(run, request, sampler, len(times) - 1, codec)


def _read(
    run: Loaded, option: str, path: str, most: int, codec: Codec | None
) -> pictures.Pictures:
    """Reads pictures as the model sees its data: as latents if there is a codec."""
    kept = generate.stored(run.model, codec)
    if codec is None:
        return pictures.read(option, path, kept, run.config["data"], most)
    found = pictures.read(option, path, kept, None, most)
    with (
        progress.announced("encoding the pictures"),
        jax.default_matmul_precision(run.config["matmul_precision"]),
    ):
        return found._replace(values=codec.latents(found.values))


def _from_picture(
    run: Loaded,
    request: Request,
    sampler: Any,
    num_steps: int,
    codec: Codec | None,
) -> tuple[Request, Plan]:
    """Plans samples from a picture: `--init_image` with `--strength` and `--mask`."""
    options, masked = request.edit, "mask" in request.edit
    strength = options.get("strength", 1.0 if masked else edit_options.STRENGTH)
    taken = round(strength * num_steps)
    if strength and not taken:
        raise UsageError(
            f"strength={strength} of {num_steps} steps is none: must be 0, or at least "
            f"{0.5 / num_steps:.2g}, or take more --sampler.num_steps"
        )
    mask = _mask(run, options["mask"], sampler, codec) if masked else None
    path, most = options["init_image"], request.num_samples
    found = _read(run, "init_image", path, most, codec)
    known = mask if masked and mask.any() else None
    plan = Plan(
        FromPicture(found.values, num_steps=taken, whole=strength == 1, mask=known),
        {"init_image": found.digest, "strength": strength},
        f"_init-{found.digest[:8]}_strength{strength:.9g}",
        f", from {found.name} ({found.digest[:8]}) at strength {strength:g}, "
        f"{taken} of {num_steps} steps",
    )
    if masked:
        digest, name = pictures.digest(mask), pathlib.Path(options["mask"]).name
        plan = plan._replace(
            settings={**plan.settings, "mask": digest},
            name=f"{plan.name}_mask-{digest[:8]}",
            words=f"{plan.words}, known values of {name} ({digest[:8]})",
        )
    plain = strength == 1 and known is None  # the very program of noise alone
    return request, plan._replace(edit=None) if plain else plan


def _mask(run: Loaded, path: str, sampler: Any, codec: Codec | None) -> np.ndarray:
    """Reads a file's mask, bool [*event], for a sampler that can keep what is known."""
    if isinstance(sampler, samplers.FlowMap):
        raise UsageError(
            "--mask with --sampler.name=flow_map: its jumps leave out the times at "
            "which known values are put in; take another sampler, such as ddim"
        )
    if codec is None:
        return pictures.mask(path, run.model.event_shape)
    known = pictures.mask(path, codec.event_shape)
    with naming("--mask"):
        return pictures.coarser(known, run.model.event_shape)


def _round_trip(
    run: Loaded, request: Request, sampler: Any, codec: Codec | None
) -> tuple[Request, Plan]:
    """Plans the inversion of pictures to noise and back: `--init_image`, `--invert`."""
    check_invertible("invert", run.model, sampler, run.request.sampler["name"])
    path = request.edit["init_image"]
    found = _read(run, "init_image", path, request.num_samples, codec)
    plan = Plan(
        RoundTrip(found.values),
        {"init_image": found.digest, "invert": True},
        f"_inverted-{found.digest[:8]}",
        f", {found.name} ({found.digest[:8]}) to noise and back",
    )
    return request._replace(num_samples=len(found.values)), plan


def _interpolation(
    run: Loaded, request: Request, sampler: Any, codec: Codec | None
) -> tuple[Request, Plan]:
    """Plans an interpolation: `--interpolate` with `--columns`."""
    columns = request.edit.get("columns", edit_options.COLUMNS)
    bound = f"at least {columns}, the columns of one row"
    require("num_samples", request.num_samples, request.num_samples >= columns, bound)
    ends = edit_options.ends(request.edit["interpolate"])
    if isinstance(ends[0], str):
        check_invertible("interpolate", run.model, sampler, run.request.sampler["name"])
        request, plan = _between_pictures(run, request, ends, columns, codec)
    else:
        request, plan = _between_seeds(request, ends, columns)
    plan = plan._replace(
        settings={**plan.settings, "columns": columns},
        name=f"{plan.name}_columns{columns}",
        words=f"{plan.words} in {columns} columns",
    )
    return request, plan


def _between_seeds(request: Request, ends: Any, columns: int) -> tuple[Request, Plan]:
    """Plans an interpolation from the samples of one seed to those of another."""
    first, last = ends
    bound = f"left out with --interpolate={first},{last}, which names both seeds"
    require("seed", request.seed, request.seed in (0, first), bound)
    plan = Plan(
        BetweenSeeds(first, last, columns),
        {"interpolate": f"{first},{last}"},
        f"_seeds-{first}-{last}",
        f", seeds {first} to {last}",
    )
    return request._replace(seed=first), plan


def _between_pictures(
    run: Loaded, request: Request, ends: Any, columns: int, codec: Codec | None
) -> tuple[Request, Plan]:
    """Plans an interpolation from pictures to as many others."""
    rows = -(-request.num_samples // columns)
    one, other = (_read(run, "interpolate", path, rows, codec) for path in ends)
    if len(one.values) != len(other.values):
        raise UsageError(
            f"--interpolate: {len(one.values)} pictures in {one.name} and "
            f"{len(other.values)} in {other.name}: must be as many, a row for each pair"
        )
    most = columns * len(one.values)
    plan = Plan(
        BetweenPictures(one.values, other.values, columns),
        {"interpolate": f"{one.digest},{other.digest}"},
        f"_from-{one.digest[:8]}-to-{other.digest[:8]}",
        f", {one.name} ({one.digest[:8]}) to {other.name} ({other.digest[:8]})",
    )
    return request._replace(num_samples=min(request.num_samples, most)), plan
