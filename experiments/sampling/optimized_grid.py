"""Computes the sampling grid of a run, a sampler and a number of steps, as a file."""

import json
import pathlib
import re
import tempfile
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from diffusionflow import grids, random, samplers
from diffusionflow.schedules import Schedule
from experiments.checkpointing import restore
from experiments.checkpointing.loaded import Loaded, Request
from experiments.config import build, elsewhere, grid_files
from experiments.config.model import Model
from experiments.runtime import files, progress, rng
from experiments.runtime.errors import UsageError, naming, require, shown
from experiments.runtime.signals import stopping
from experiments.sampling import requested
from experiments.sampling.conditions import Conditions

NUM_PARAMETERS = 8  # of the search, at most


class Settings(NamedTuple):
    """How the grid is computed; see `grids.optimize`.

    Fields:
      t_max: time of the noise.
      max_evaluations: grids that are tried, at least `fewest_evaluations`.
    """

    t_max: float = 1.0
    max_evaluations: int = 120


def write_grid(
    workdir: str | pathlib.Path, request: Request, settings: Settings
) -> pathlib.Path:
    """Computes the grid of a checkpoint; writes the file that `sampler.grid` takes.

    Args:
      workdir: of the run.
      request: what is sampled; `num_samples` noises, and the steps of the sampler are
        steps to the data.
      settings: of the search.

    Returns:
      The path of the file, `.json`.

    Raises:
      UsageError: there is no such checkpoint, a setting does not fit it, the sampler
        adds noise, or the file is there.
      Stopped: at SIGTERM or Ctrl-C.
    """
    workdir = pathlib.Path(workdir)
    with stopping():
        checked = lambda request, model: _check(workdir, request, model, settings)
        (loaded,) = restore.load_each(workdir, request, (request.weights,), checked)
        path = _path(workdir, loaded.request)
        precision = loaded.config["matmul_precision"]
        with (
            naming("grid"),
            jax.default_matmul_precision(precision),
            progress.announced("computing the grid"),
        ):
            given = requested.of_samples(loaded)
            found = optimized(loaded, given, settings)
        print(words(found), flush=True)
        with files.atomic_write(path) as temporary:
            content = json.dumps(_content(loaded, given, settings, found), indent=2)
            temporary.write_text(content + "\n")
    print(path, flush=True)
    return path


def optimized(loaded: Loaded, given: Conditions, settings: Settings) -> grids.Optimized:
    """Computes the grid of weights that are loaded.

    Args:
      loaded: with a complete request.
      given: conditions of its samples.
      settings: of the search.
    """
    request, model = loaded.request, loaded.model
    schedule, count = model.objective.schedule, request.num_samples
    number = np.arange(count, dtype=np.uint32)
    keys = random.example_keys(rng.stream(request.seed, rng.GRID), number)
    z = samplers.prior(
        keys, (count, *model.event_shape), schedule=schedule, t=settings.t_max
    )
    return grids.optimize(
        model.denoise_fn(loaded.params, given.labels, request.guidance, given.vectors),
        z,
        request.sampler["num_steps"],
        sampler=build.sampler(request.sampler),
        schedule=schedule,
        t_max=settings.t_max,
        candidates=_candidates(loaded, settings),
        num_parameters=NUM_PARAMETERS,
        max_evaluations=settings.max_evaluations,
        seed=request.seed,
    )


def _candidates(loaded: Loaded, settings: Settings) -> Mapping[str, np.ndarray]:
    """Makes the fixed grids, and that of the run's config, at equal network calls."""
    request, schedule = loaded.request, loaded.model.objective.schedule
    count = request.sampler["num_steps"]
    found = dict(grids.candidates(count, schedule=schedule, t_max=settings.t_max))
    own = config_grid(loaded.config["sampler"], schedule, count)
    if own is not None and own[0] <= settings.t_max:
        known = [each for each in found.values() if len(each) == len(own)]
        if not any(np.allclose(own, each, rtol=0, atol=1e-9) for each in known):
            found[f"{loaded.config['sampler']['grid']} of the config"] = own
    return found


def config_grid(
    section: Mapping[str, Any], schedule: Schedule, count: int
) -> np.ndarray | None:
    """Makes the grid of a config with `count` steps to the data; None of a file."""
    if grid_files.is_file(section["grid"]):
        return None
    times = build.grid({**section, "num_steps": count}, schedule)
    if float(np.asarray(schedule.sigma(times[-1]))) > 0:
        times = build.grid({**section, "num_steps": count - 1}, schedule)
    return times


def _check(
    workdir: pathlib.Path, request: Request, model: Model, settings: Settings
) -> None:
    """Checks a complete request before weights are read."""
    if not model.predicts_at_one_time:
        raise UsageError(
            "the network of this run only jumps toward the data, and jumps have no "
            "grid to compute; take the run of its teacher"
        )
    count = request.sampler["num_steps"]
    require("sampler.num_steps", count, count >= 2, "at least 2: one step has no times")
    require("t_max", settings.t_max, 0 < settings.t_max <= 1, "in (0, 1]")
    _check_evaluations(settings.max_evaluations, count)
    _check_name(request.sampler["name"])
    build.check_guidance(model.net, build.sampler(request.sampler), request.guidance)
    build.check_start(model.objective, np.array([settings.t_max, 0.0]))
    path = _path(workdir, request)
    require("out", str(path), path.suffix == ".json", "a path that ends in .json")
    if path.exists():
        raise UsageError(f"out={path}: exists: remove it, or choose another --out")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=path.parent):
        pass  # an error now, and not after the search


def fewest_evaluations(num_steps: int) -> int:
    """Returns below how many evaluations `grids.optimize` compares only fixed grids."""
    return 4 * min(NUM_PARAMETERS, num_steps - 1) + 6


def _check_evaluations(asked: int, num_steps: int) -> None:
    least = fewest_evaluations(num_steps)
    bound = (
        f"at least {least} for {num_steps} steps: fewer change no grid, and the fixed "
        f"ones alone would be compared; give --max_evaluations={least} or more"
    )
    require("max_evaluations", asked, asked >= least, bound)


def _check_name(name: str) -> None:
    """Refuses a name of another library with that of a grid behind it."""
    if elsewhere.named(name) is not None and samplers.names.with_grid(name):
        raise UsageError(
            f"sampler.name={shown(name)}: names a grid too, and the command computes "
            "one; give --sampler.name without it"
        )


def _path(workdir: pathlib.Path, request: Request) -> pathlib.Path:
    if request.out is not None:
        return pathlib.Path(request.out)
    sampler = request.sampler
    name = f"{sampler['name']}_{sampler['num_steps']}_guidance{request.guidance:.9g}"
    return workdir / grid_files.FOLDER / (re.sub(r"[^\w.=]+", "-", name) + ".json")


def _content(
    loaded: Loaded, given: Conditions, settings: Settings, found: grids.Optimized
) -> dict[str, Any]:
    """Makes the content of the file: the grid, how it was made, and its errors."""
    request = loaded.request
    names = ("label", "guidance", "weights", "sigma_rel", "step", "seed", "num_samples")
    record = found._asdict() | {"measured": [each._asdict() for each in found.measured]}
    return {
        "format": grid_files.FORMAT,
        "sampler": request.sampler["name"],
        "num_steps": request.sampler["num_steps"],
        "schedule": repr(loaded.model.objective.schedule),
        **_plain(record),
        "recipe": {name: getattr(request, name) for name in names}
        | settings._asdict()
        | {"conditions": None, **given.settings()}
        | {"matmul_precision": loaded.config["matmul_precision"]}
        | {"parameters": loaded.digest},
    }


def _plain(value: Any) -> Any:
    """Converts to what JSON has, numbers with all of their digits."""
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return value.tolist() if isinstance(value, np.ndarray) else value


def words(found: grids.Optimized) -> str:
    """Formats the errors of the grids, a line each, the best first, and the grid."""
    ranked = sorted(found.measured, key=lambda each: each.error)
    lines = [
        f"{each.name:<32} {each.error:.4g} +- {each.standard_error:.2g}, "
        f"{each.evaluations} evaluations"
        for each in ranked
    ]
    by_name = {each.name: each.error for each in found.measured}
    ratio = by_name[found.chosen] / by_name[found.best_fixed]
    return "\n".join(
        [
            "mean distance of end points to a fine solution, on held-out noise:",
            *lines,
            f"chosen: {found.chosen}, {ratio:.2f} of the error of {found.best_fixed}, "
            "the best fixed grid",
            f"error of the reference: {found.reference_error:.2g}",
            f"times: {', '.join(f'{time:.5g}' for time in found.times)}",
        ]
    )
