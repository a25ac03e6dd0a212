"""Runs a study: the same network trained by several recipes and seeds."""

import pathlib
import re
import runpy
from collections.abc import Mapping
from typing import Any, NamedTuple

from experiments.comparison import compare_runs, grouping
from experiments.config import experiment, overrides
from experiments.evaluation import evaluate, likelihoods, sample_quality
from experiments.runtime import own_files
from experiments.runtime.errors import UsageError, require
from experiments.training import loop
from experiments.visualization import html_page


class Study(NamedTuple):
    """What a study trains and how it evaluates it.

    Fields:
      configs: by name of the recipe, the one that the others are compared with first.
      seeds: of the runs of each recipe.
      request: how every run is evaluated.
    """

    configs: dict[str, Any]
    seeds: tuple[int, ...]
    request: evaluate.Request


def load(path: str) -> Study:
    """Loads the study of a file with `get_study()` and `get_config(recipe)`.

    Args:
      path: of the file, or the name of a shipped one.

    Raises:
      UsageError: there is no such file, or it does not hold a study.
    """
    file = overrides.find_file(path, "--study")
    try:
        with overrides.importing_from(file.resolve().parent.parent):
            functions = runpy.run_path(str(file))
        study = functions["get_study"]()
        request = evaluate.Request(
            likelihood=likelihoods.Settings(**_plain(study["likelihood"])),
            samples=sample_quality.Settings(**_plain(study["samples"])),
        )
        recipes, seeds = tuple(study["recipes"]), tuple(study["seeds"])
        configs = {name: functions["get_config"](name) for name in recipes}
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise UsageError(f"--study: {path} holds no study: {reason}") from error
    where = f"--study: {path}"
    for name in recipes:
        plain = isinstance(name, str) and re.fullmatch(r"\w[\w.-]*", name)
        bound = "a word of letters, digits, - and _, which names a directory"
        require(f"{where}: recipe", name, bool(plain), bound)
    for seed in seeds:
        whole = isinstance(seed, int) and not isinstance(seed, bool)
        inside = whole and 0 <= seed < 2**32
        require(f"{where}: seed", seed, inside, "a whole number in [0, 2**32)")
    for what, names in (("recipes", recipes), ("seeds", seeds)):
        if len(set(names)) < len(names):
            raise UsageError(f"--study: {path}: {what}={names}: one is named twice")
    if not seeds or not 2 <= len(recipes) <= grouping.MAX_GROUPS:
        raise UsageError(
            f"--study: {path} names {len(recipes)} recipes and {len(seeds)} seeds; 2 "
            f"to {grouping.MAX_GROUPS} recipes are compared, with a seed at least"
        )
    for config in configs.values():
        experiment.from_config(config)
        sample_quality.sampler_sections(request.samples, config["sampler"])
    return Study(configs, seeds, request)


def _plain(section: Mapping[str, Any]) -> dict[str, Any]:
    return {name: section[name] for name in section}


def folder(workdir: str | pathlib.Path, recipe: str, seed: int) -> pathlib.Path:
    """Returns the directory of a run."""
    return pathlib.Path(workdir) / recipe / str(seed)


def run_study(path: str, workdir: str | pathlib.Path) -> pathlib.Path:
    """Trains and evaluates every run, seed by seed, and writes the comparison.

    Args:
      path: of the study, see `load`.
      workdir: where runs and comparison are.

    Returns:
      The path of the comparison.

    Raises:
      UsageError: the study or a config is wrong, or `workdir` holds another one, or a
        `compare.html` of somebody's.
      Stopped: at SIGTERM or Ctrl-C.
    """
    study = load(path)
    html_page.plotly_js()  # fails now if plotly is missing, not at the end
    out = pathlib.Path(workdir) / "compare.html"
    out.parent.mkdir(parents=True, exist_ok=True)
    own_files.check("workdir", [out], compare_runs.COMMAND)
    todo = [(seed, recipe) for seed in study.seeds for recipe in study.configs]
    for number, (seed, recipe) in enumerate(todo, start=1):
        print(f"run {number} of {len(todo)}: {recipe}, seed {seed}", flush=True)
        config = study.configs[recipe].copy_and_resolve_references()
        config.seed = seed
        run = folder(workdir, recipe, seed)
        loop.train_and_evaluate(config, run)
        evaluate.evaluate_run(run, study.request)
    runs = [
        f"{recipe}={folder(workdir, recipe, seed)}"
        for recipe in study.configs
        for seed in study.seeds
    ]
    compare_runs.compare_runs(runs, out=str(out))
    return out
