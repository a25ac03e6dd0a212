"""The config of a student, from that of its teacher."""

import pathlib
from collections.abc import Collection
from typing import Any

from ml_collections import ConfigDict

from experiments.config import build, external, schema
from experiments.runtime import files
from experiments.runtime.errors import UsageError


def read_config(workdir: pathlib.Path, flag: str) -> ConfigDict:
    """Reads the config of a run from its `config.json`.

    Args:
      workdir: of the run.
      flag: that names it, for errors.

    Raises:
      UsageError: there is no run.
    """
    path = workdir / "config.json"
    try:
        found = files.read_json(path)
        if not isinstance(found, dict):
            raise ValueError(f"a {type(found).__name__}: must be entries by name")
        found.pop("history", None)
        config = ConfigDict(_with_tuples(found))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UsageError(
            f"--{flag}={workdir}: no config of a run in {path}: {error}; give the "
            "workdir of a trained run"
        ) from error
    schema.settle(config)
    return config


def _with_tuples(value: Any) -> Any:
    """Converts lists in values of JSON to tuples, as a config file has them."""
    if isinstance(value, dict):
        return {key: _with_tuples(each) for key, each in value.items()}
    return tuple(map(_with_tuples, value)) if isinstance(value, list) else value


def from_teacher(workdir: str, **settings: Any) -> ConfigDict:
    """Makes the config of a student that is distilled from a run.

    Args:
      workdir: of the teacher, where modules of its own are looked for.
      **settings: of `student`.

    Raises:
      UsageError: there is no run, or as `student`.
    """
    path = pathlib.Path(workdir)
    external.search(path)
    return student(read_config(path, "teacher"), teacher=workdir, **settings)


def student(
    config: ConfigDict,
    *,
    method: str,
    teacher: str,
    weights: str = "ema",
    guidance: float = 1.0,
    pairs: str | None = None,
) -> ConfigDict:
    """Makes the config of a student: the teacher's, with what the method needs.

    The learning rate is half the teacher's; the student is sampled by jumps, in as many
    steps as the method ends with.

    Args:
      config: of the teacher.
      method: such as "progressive(first=16)".
      teacher: its workdir.
      weights: "ema" or "raw", of the teacher.
      guidance: scale of the teacher.
      pairs: file of `experiments.pairs`, for methods that learn from one.

    Returns:
      A config of its own.

    Raises:
      UsageError: there is no such method, or `pairs` is missing or not wanted.
    """
    config = ConfigDict(config.to_dict())
    section = dict(method=method, teacher=teacher, weights=weights, guidance=guidance)
    built = build.method(section)
    if built is None:
        raise UsageError("--method: is empty; such as progressive or meanflow")
    if built.needs_noise != (pairs is not None):
        how = "needs --pairs=FILE, which experiments.pairs writes"
        wrong = f"--pairs={pairs}: --method={method} learns from the data themselves"
        raise UsageError(f"--method={method}: {how}" if pairs is None else wrong)
    steps = max(1, config.num_steps // built.num_stages)
    with config.unlocked():
        config.distillation = section
        config.num_steps = steps * built.num_stages
        config.objective.proposal = ""
        if built.two_times:
            config.network.two_times = True
        if pairs is not None:
            config.data = dict(name="pairs", path=pairs)
    config.optimizer.learning_rate /= 2
    config.sampler = dict(name="flow_map", num_steps=1, grid="uniform")
    config.guidance = 1.0
    if not built.diagonal:
        config.eval.every = 0
        config.checkpoint.keep_best = 0
    if built.num_stages > 1:
        config.sampler.num_steps = getattr(built, "last", 1)
    fit_stages(config)
    return config


def fit_stages(config: ConfigDict, given: Collection[str] = ()) -> None:
    """Sets what goes with the steps of a stage: warm-up, checkpoints and rows of a log.

    The students of all stages are kept, and each has a row of its own.

    Args:
      config: of a student; changed in place. A number of steps that the stages do not
        divide is refused later, by `experiment.from_config`.
      given: names of entries that are left as they are.
    """
    built = build.method(config.distillation)
    stages = 1 if built is None else built.num_stages
    steps = max(1, config.num_steps // stages)

    def fit(name: str, value: int) -> None:
        if name not in given:
            config.update_from_flattened_dict({name: value})

    fit("optimizer.warmup_steps", min(config.optimizer.warmup_steps, steps // 10))
    if stages > 1:
        fit("log.every", min(config.log.every, steps))
        fit("checkpoint.every", steps)
        every = config.checkpoint.every
        count = -(-config.num_steps // (every if every > 0 else config.num_steps))
        fit("checkpoint.keep", max(config.checkpoint.keep, count))
