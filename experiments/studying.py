"""A study: the same network trained by several recipes, each with several seeds."""

import pathlib
import runpy
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from experiments import comparing, evaluating, groups, likelihoods, loop, quality
from experiments.errors import UsageError


class Study(NamedTuple):
    """What is trained and how it is judged.

    Fields:
      config_fn: the config of a recipe, by name.
      recipes: names, the one that the others are compared with first.
      seeds: of the runs of each recipe.
      request: how every run is evaluated.
    """

    config_fn: Callable[[str], Any]
    recipes: tuple[str, ...]
    seeds: tuple[int, ...]
    request: evaluating.Request


def load(path: str) -> Study:
    """The study of a file with `get_study()` and `get_config(recipe)`.

    Raises:
      UsageError: there is no such file, or it does not hold a study.
    """
    if not pathlib.Path(path).is_file():
        raise UsageError(f"--study: no file {path!r}; configs/study.py is one")
    try:
        functions = runpy.run_path(path)
        found = functions["get_study"]()
        request = evaluating.Request(
            likelihood=likelihoods.Settings(**_plain(found["likelihood"])),
            samples=quality.Settings(**_plain(found["samples"])),
        )
        study = Study(
            functions["get_config"],
            tuple(found["recipes"]),
            tuple(found["seeds"]),
            request,
        )
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise UsageError(f"--study: {path} holds no study: {reason}") from error
    if not study.seeds or not 2 <= len(set(study.recipes)) <= groups.MOST:
        raise UsageError(
            f"--study: {path} names {len(set(study.recipes))} recipes and "
            f"{len(study.seeds)} seeds; 2 to {groups.MOST} recipes are compared, with "
            "a seed at least"
        )
    return study


def _plain(section: Mapping[str, Any]) -> dict[str, Any]:
    return {name: section[name] for name in section}


def folder(workdir: str | pathlib.Path, recipe: str, seed: int) -> pathlib.Path:
    """Where a run is."""
    return pathlib.Path(workdir) / recipe / str(seed)


def run_study(path: str, workdir: str | pathlib.Path) -> pathlib.Path:
    """Trains and evaluates every run, seed by seed, and writes the comparison.

    Args:
      path: of the study, see `load`.
      workdir: where runs and comparison are.

    Returns:
      The path of the comparison.

    Raises:
      UsageError: the study or a config is wrong, or `workdir` holds another one.
      Stopped: at SIGTERM or Ctrl-C.
    """
    study = load(path)
    configs = {name: study.config_fn(name) for name in study.recipes}
    todo = [(seed, recipe) for seed in study.seeds for recipe in study.recipes]
    for number, (seed, recipe) in enumerate(todo, start=1):
        print(f"run {number} of {len(todo)}: {recipe}, seed {seed}", flush=True)
        config = configs[recipe].copy_and_resolve_references()
        config.seed = seed
        run = folder(workdir, recipe, seed)
        loop.train_and_evaluate(config, run)
        evaluating.evaluate_run(run, study.request)
    runs = [
        f"{recipe}={folder(workdir, recipe, seed)}"
        for recipe in study.recipes
        for seed in study.seeds
    ]
    page = pathlib.Path(workdir) / "compare.html"
    comparing.compare_runs(runs, out=str(page))
    return page
