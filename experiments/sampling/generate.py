"""Writes samples of loaded weights into files, shard by shard."""

import contextlib
import pathlib
import re
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.checkpointing.loaded import Loaded, Request
from experiments.config import grid_files
from experiments.config.model import Model
from experiments.data.base import DataTransform
from experiments.runtime import progress
from experiments.runtime.errors import Diverged, UsageError, require
from experiments.runtime.signals import Stopped
from experiments.sampling import compiled_sampler, sample_sheet
from experiments.sampling.autoencoder import PICTURES, Codec
from experiments.sampling.conditions import Conditions
from experiments.sampling.edits import FROM_NOISE, Edit, Plan
from experiments.sampling.shards import SUFFIXES, Shards
from experiments.visualization import sample_images

NAMES = {"samples": "samples", "pairs": "pairs"}  # of files, by what they hold


class Stored(NamedTuple):
    """What the samples of a draw are as they are stored.

    Fields:
      transform: from floats to stored values.
      event_shape: of one.
    """

    transform: DataTransform
    event_shape: tuple[int, ...]


def stored(model: Model, codec: Codec | None) -> Stored:
    """Describes the samples of a model, or the decoded ones if there is a codec."""
    if codec is not None:
        return Stored(PICTURES, codec.event_shape)
    return Stored(model.transform, model.event_shape)


def write_samples(
    workdir: pathlib.Path,
    loaded: Loaded,
    given: Conditions,
    plan: Plan = FROM_NOISE,
    codec: Codec | None = None,
) -> pathlib.Path:
    """Samples weights that are loaded and writes the files: see `sample_run`.

    Args:
      workdir: of the run.
      loaded: with a complete request.
      given: conditions of all samples.
      plan: of pictures or seeds; by default of noise alone.
      codec: of latents; None to write samples as they are.

    Returns:
      The path of the `.npz`.
    """
    request, built, params = loaded.request, loaded.model, loaded.params
    path, edit = samples_path(workdir, request, plan, codec), plan.edit
    if request.out is not None:
        _check_picture(path)
    if edit is not None:
        given = given.at(edit.rows(np.arange(request.num_samples)))
    decoded = {} if codec is None else {"autoencoder": codec.digest}
    of_draw = given.settings() | dict(plan.settings) | decoded
    shards = Shards(
        path,
        settings(request, loaded.digest) | of_draw,
        count=request.num_samples,
        size=request.shard_size,
    )
    kept = stored(built, codec)

    def write(number: int, found: Any) -> None:
        arrays = found if isinstance(found, dict) else {"samples": found}
        x = arrays["samples"]
        if codec is not None:
            with progress.announced("decoding"):
                values, outside = codec.pictures(x)
        else:
            outside = round(kept.transform.clamped_fraction(x) * x.size)
            values = kept.transform.to_stored(x)
        shards.write(number, outside, **arrays | {"samples": values})

    def run(other: Edit, given: Conditions, advance: Callable[[int], None]) -> Any:
        settings = program(request) | {"most": len(given.labels), "edit": other}
        sample_fn = compiled_sampler.make_sample_fn(built, request.sampler, **settings)
        return sample_fn(params, request.seed, given, advance=advance)

    with resumed(shards, loaded) as missing:
        if missing:
            if edit is not None:
                edit.prepare(run, given)
            sample_fn = compiled_sampler.make_sample_fn(
                built, request.sampler, **program(request), edit=edit
            )
            fill(shards, sample_fn, params, request, given, write)
            with progress.announced("writing the result"):
                _conclude(path, shards, loaded, given, plan, codec)
    return shards.result


def _check_picture(path: pathlib.Path) -> None:
    """Raises a `UsageError` where `path.png` is a picture of somebody's."""
    result, folder, picture = (path.with_name(path.name + end) for end in SUFFIXES)
    if picture.exists() and not (result.exists() or folder.exists()):
        raise UsageError(
            f"{picture} is there without {result.name}, and would be overwritten: "
            "choose another --out, or move it away"
        )


@contextlib.contextmanager
def resumed(shards: Shards, loaded: Loaded) -> Iterator[bool]:
    """Locks the files of a sampling run; says at a stop what is kept.

    Args:
      shards: of the sampling run.
      loaded: for the precision of products.

    Yields:
      Whether the result is missing.

    Raises:
      UsageError: another process samples this.
    """
    try:
        with contextlib.ExitStack() as stack:
            if not shards.complete():
                shards.begin(stack)
            # another process may have written it until this one held the lock
            complete = shards.complete()
            if complete:
                print(f"sampled already: {shards.result}", flush=True)
            precision = loaded.config["matmul_precision"]
            stack.enter_context(jax.default_matmul_precision(precision))
            try:
                yield not complete
            except (Diverged, UsageError):  # while the lock is held
                shards.remove_empty()
                raise
    except Stopped as stopped:
        stopped.kept = (
            f"{shards.num_finished()} of {len(shards.bounds)} shards are in "
            f"{shards.folder}; the same command goes on"
        )
        raise


def program(request: Request) -> dict[str, Any]:
    """Picks the settings of a request that `compiled_sampler.make_sample_fn` takes."""
    return dict(
        guidance=request.guidance,
        batch_size=request.batch_size,
        most=min(request.num_samples, request.shard_size),
    )


def fill(
    shards: Shards,
    sample_fn: compiled_sampler.SampleFn,
    params: Any,
    request: Request,
    given: Conditions,
    write_fn: Callable[[int, Any], None],
) -> None:
    """Samples the shards that are missing.

    Args:
      shards: of the sampling run.
      sample_fn: of `compiled_sampler`.
      params: the weights.
      request: complete.
      given: conditions of all samples.
      write_fn: `(number, what sample_fn gave)`; writes the shard.
    """
    num_sampled, begin = 0, time.perf_counter()
    with contextlib.closing(progress.SamplingProgress(request.num_samples)) as meter:
        for number, start, stop in shards.missing(meter.skip):
            part = given.part(start, stop)
            found = sample_fn(params, request.seed, part, start, meter.advance)
            check_finite(found, request)
            write_fn(number, found)
            num_sampled += stop - start
            meter.shard()
    seconds = time.perf_counter() - begin
    print(f"{num_sampled:,} samples in {seconds:.1f} s, compilation included")


def check_finite(found: Any, request: Request) -> None:
    """Raises `Diverged` where samples are not finite: they are no result.

    Args:
      found: arrays [n, ...], a pytree.
      request: of the samples.
    """
    for array in jax.tree.leaves(found):
        finite = np.isfinite(array.reshape(len(array), -1)).all(1)
        if not finite.all():
            raise Diverged(
                f"{(~finite).sum():,} of {len(finite):,} samples are not finite, and "
                f"none of them is written (guidance {request.guidance:g}, sampler "
                f"{request.sampler['name']}, {request.sampler['num_steps']} steps): "
                "take a smaller guidance, more steps, another sampler, or another step"
            )


def _conclude(
    path: pathlib.Path,
    shards: Shards,
    loaded: Loaded,
    given: Conditions,
    plan: Plan,
    codec: Codec | None,
) -> None:
    """Writes `path.npz` and, of shapes that have one, `path.png`, and says so."""
    request, built = loaded.request, loaded.model
    kept = stored(built, codec)
    recipe = summary(request) + plan.words
    labels, levels = given.labels, kept.transform.levels
    written = f"{path}.npz\n{sample_images.no_picture(kept.event_shape)}"
    if most := sample_images.num_shown(kept.event_shape):
        written = f"{path}.npz and {path}.png"
        classes = built.num_classes if request.label is None else 0
        sample_sheet.write(
            path, shards, kept.transform, plan.edit, labels[:most], classes, codec
        )
    entries: dict[str, Any] = {} if levels is None else {"levels": levels}
    if given.vectors is not None:
        entries["conditions"] = given.vectors
    found = None if plan.edit is None else plan.edit.findings(shards.first)
    outside = shards.conclude(labels=labels, recipe=recipe, **entries)
    total = request.num_samples * np.prod(kept.event_shape)
    if levels is not None:
        share = f"{outside / total:.2%}"
        print(f"{share} of their values lay outside [-1, 1] and were clamped")
    print("\n".join(filter(None, [recipe, found, written])))


def settings(request: Request, digest: str) -> dict[str, Any]:
    """Returns what the samples depend on, as plain JSON values, and `shard_size`."""
    names = ["num_samples", "label", "seed", "guidance", "weights", "step"]
    if request.sigma_rel is not None:
        names.append("sigma_rel")
    recorded = grid_files.recorded(request.sampler)
    sampler = {f"sampler.{key}": value for key, value in recorded.items()}
    return {
        **{name: getattr(request, name) for name in names},
        **sampler,
        "parameters": digest,
        "shard_size": request.shard_size,
    }


def summary(request: Request) -> str:
    """Describes how the samples were made, on one line."""
    sampler = grid_files.recorded(request.sampler)
    return (
        f"{_weights(request)} weights of step {request.step:,}, {sampler['name']}, "
        f"{sampler['num_steps']} steps, grid {sampler['grid']}, guidance "
        f"{request.guidance:g}, seed {request.seed}"
    )


def _weights(request: Request) -> str:
    """Names the weights, such as raw, ema, or ema0.1 for an average of that width."""
    return f"{request.weights}{request.sigma_rel or ''}"


def samples_path(
    workdir: pathlib.Path, request: Request, plan: Plan, codec: Codec | None
) -> pathlib.Path:
    """Returns the path of the samples of a complete request, without suffix.

    Args:
      workdir: of the run.
      request: complete.
      plan: of pictures or seeds.
      codec: of latents; None of samples as they are.
    """
    decoded = "" if codec is None else f"_decoded-{codec.digest[:8]}"
    return output_path(workdir, request, more=decoded + plan.name)


def output_path(
    workdir: pathlib.Path, request: Request, what: str = "samples", more: str = ""
) -> pathlib.Path:
    """Returns the path of the files of a complete request, without suffix.

    Args:
      workdir: of the run.
      request: complete.
      what: of `NAMES`; the folder.
      more: end of the name.
    """
    if request.out is not None:
        path = pathlib.Path(request.out)
        require("out", request.out, path.name != "", "a path that ends in a name")
        return path.with_suffix("") if path.suffix in (".npz", ".png") else path
    sampler = grid_files.recorded(request.sampler)
    name = (
        f"{NAMES[what]}_step{request.step:07d}_{_weights(request)}_{sampler['name']}"
        f"_{sampler['num_steps']}_{sampler['grid']}_guidance{request.guidance:.9g}"
        f"_label{'s' if request.label is None else request.label}"
        f"_seed{request.seed}_{request.num_samples}"
    )
    if request.conditions is not None:
        name += f"_conditions-{pathlib.Path(request.conditions).stem}"
    return workdir / what / re.sub(r"[^\w.=]+", "-", name + more)
