"""What a request makes of pictures or of two seeds, checked against its run."""

import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

from diffusionflow import samplers
from experiments.checkpointing import restore
from experiments.checkpointing.restore import Loaded, Request
from experiments.config import build
from experiments.runtime.errors import UsageError, require
from experiments.sampling import compiled_sampler, edit_options, pictures
from experiments.sampling.edits import Edit, FromPicture
from experiments.sampling.interpolation import BetweenPictures, BetweenSeeds
from experiments.sampling.inversion import RoundTrip, check_invertible


class Planned(NamedTuple):
    """What becomes of a request.

    Fields:
      request: with as many samples as there are.
      edit: of which the samples are made; None for noise alone.
      settings: plain JSON values, what the samples depend on besides the request.
      name: of these, in names of files.
      words: of these, for the recipe.
    """

    request: Request
    edit: Edit | None = None
    settings: Mapping[str, Any] = {}
    name: str = ""
    words: str = ""


def planned(workdir: str | pathlib.Path, request: Request) -> Planned:
    """Reads what a request names, and checks it before weights are read.

    Args:
      workdir: of the run.
      request: what to draw.

    Raises:
      UsageError: a picture is no data of the run, the sampler cannot do what is asked
        for, or there is no such checkpoint.
    """
    if not request.edit:
        return Planned(request)
    edit_options.given(request.edit)
    run = restore.describe(pathlib.Path(workdir), request)
    sampler = build.sampler(run.request.sampler)
    times = build.grid(run.request.sampler, run.model.objective.schedule)
    scale = run.request.guidance
    compiled_sampler.check_guidance(run.model, run.request.sampler, scale)
    if "interpolate" in request.edit:
        return _interpolation(run, request, sampler)
    if "invert" in request.edit:
        return _round_trip(run, request, sampler)
    return _from_picture(run, request, sampler, len(times) - 1)


def _read(run: Loaded, option: str, path: str, most: int) -> pictures.Pictures:
    return pictures.read(option, path, run.model, run.config["data"], most)


def _from_picture(
    run: Loaded, request: Request, sampler: Any, num_steps: int
) -> Planned:
    """Of `--init_image` with `--strength` and `--mask`."""
    options = request.edit
    usual = 1.0 if "mask" in options else edit_options.STRENGTH
    strength = options.get("strength", usual)
    taken = round(strength * num_steps)
    if strength and not taken:
        raise UsageError(
            f"strength={strength} of {num_steps} steps is none: must be 0, or at least "
            f"{0.5 / num_steps:.2g}, or take more --sampler.num_steps"
        )
    if "mask" in options and isinstance(sampler, samplers.FlowMap):
        raise UsageError(
            "--mask with --sampler.name=flow_map: its jumps leave out the times at "
            "which known values are put in; take another sampler, such as ddim"
        )
    mask, hidden = None, ""
    if "mask" in options:
        mask = pictures.mask(options["mask"], run.model.event_shape)
        hidden = pictures.digest(mask)
    found = _read(run, "init_image", options["init_image"], request.num_samples)
    known = mask if mask is not None and mask.any() else None
    edit = FromPicture(found.values, num_steps=taken, whole=strength == 1, mask=known)
    settings: dict[str, Any] = {"init_image": found.digest, "strength": strength}
    name = f"_init-{found.digest[:8]}_strength{strength:.9g}"
    words = (
        f", from {found.name} ({found.digest[:8]}) at strength {strength:g}, "
        f"{taken} of {num_steps} steps"
    )
    if hidden:
        settings["mask"] = hidden
        name += f"_mask-{hidden[:8]}"
        words += (
            f", known values of {pathlib.Path(options['mask']).name} ({hidden[:8]})"
        )
    plain = strength == 1 and known is None  # the very program of noise alone
    return Planned(request, None if plain else edit, settings, name, words)


def _round_trip(run: Loaded, request: Request, sampler: Any) -> Planned:
    """Of `--init_image` with `--invert`."""
    check_invertible("invert", run.model, sampler, run.request.sampler["name"])
    path = request.edit["init_image"]
    found = _read(run, "init_image", path, request.num_samples)
    return Planned(
        request._replace(num_samples=len(found.values)),
        RoundTrip(found.values),
        {"init_image": found.digest, "invert": True},
        f"_inverted-{found.digest[:8]}",
        f", {found.name} ({found.digest[:8]}) to noise and back",
    )


def _interpolation(run: Loaded, request: Request, sampler: Any) -> Planned:
    """Of `--interpolate` with `--columns`."""
    text = request.edit["interpolate"]
    columns = request.edit.get("columns", edit_options.COLUMNS)
    count = request.num_samples
    bound = f"at least {columns}, the columns of one row"
    require("num_samples", count, count >= columns, bound)
    first, last = edit_options.ends(text)
    if isinstance(first, int) and isinstance(last, int):
        bound = f"left out with --interpolate={text}, which names both seeds"
        require("seed", request.seed, request.seed in (0, first), bound)
        edit: Edit = BetweenSeeds(first, last, columns)
        settings, name, words = (
            text,
            f"_seeds-{first}-{last}",
            f", seeds {first} to {last}",
        )
        request = request._replace(seed=first)
    else:
        check_invertible("interpolate", run.model, sampler, run.request.sampler["name"])
        rows = -(-count // columns)
        one = _read(run, "interpolate", str(first), rows)
        other = _read(run, "interpolate", str(last), rows)
        if len(one.values) != len(other.values):
            raise UsageError(
                f"interpolate={text!r}: {len(one.values)} pictures and "
                f"{len(other.values)}: must be as many, a row for each pair"
            )
        edit = BetweenPictures(one.values, other.values, columns)
        request = request._replace(num_samples=min(count, columns * len(one.values)))
        settings = f"{one.digest},{other.digest}"
        name = f"_from-{one.digest[:8]}-to-{other.digest[:8]}"
        words = f", {one.name} ({one.digest[:8]}) to {other.name} ({other.digest[:8]})"
    return Planned(
        request,
        edit,
        {"interpolate": settings, "columns": columns},
        f"{name}_columns{columns}",
        f"{words} in {columns} columns",
    )
