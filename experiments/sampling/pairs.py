r"""Pairs of noise and sample of a run's model, into a file that a run can train on.

A pair is (eps, x): the sampler starts from `z = sigma_t eps` at the first time t of its
grid and ends at x, floats as they are. Pair i of a seed is the same whatever the
batches, shards and devices. Its noise is none that `diffusionflow sample` samples with
any seed, so a student is not measured on noise that it was trained on.

A step of a student takes eps as its noise, and so sees `alpha_t x + sigma_t eps` as z.
At t = 1 of schedules with alpha_1 = 0 (flow matching, cosine) that is where the teacher
started. Where alpha_1 > 0 (EDM, VE, linear beta) it is off by `alpha_1 x`, as it is in
any training there; sigma_1 need not be 1. A grid that begins at t < 1 leaves out what
the ODE does before.

The pairs freeze the solver: a student learns its error as well. By default it is Heun's
method in u with 50 steps. A sampler that draws noise of its own makes pairs too, whose
sample is no function of their noise.

Straightness is that of the same sampler's paths in the coordinates of flow matching,
`int |(z_1 - z_0) - dz/dt|^2 dt`, 0 if straight. Their noise is that of samples, so that
a student is measured where it was not trained.
"""

import json
import math
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffusionflow import metrics, samplers
from diffusionflow.schedules import Schedule
from experiments.checkpointing import restore
from experiments.checkpointing.loaded import Loaded, Request
from experiments.config import build, elsewhere, grid_check, schema
from experiments.runtime import progress, rng
from experiments.runtime.signals import stopping
from experiments.sampling import compiled_sampler, generate
from experiments.sampling.conditions import Conditions
from experiments.sampling.requested import of_samples
from experiments.sampling.shards import Shards

SAMPLER = {"name": "heun(variable='u')", "num_steps": 50}  # where none is named
NUM_PATHS = 1024  # at most, of which the straightness is measured


def write_pairs(workdir: str | pathlib.Path, request: Request) -> pathlib.Path:
    """Draws from a run's checkpoint; writes the `.npz` of the data source `pairs`.

    The pairs are written in shards, which are kept when the process is stopped or
    killed: the same call goes on with the next one. A finished result is left
    as it is.

    Args:
      workdir: of the run.
      request: what to sample; entries of its sampler that are not given are
        `SAMPLER`'s, and then the config's.

    Returns:
      The path of the `.npz`.

    Raises:
      UsageError: if there is no such checkpoint, a setting does not fit it, or the
        files are those of other settings.
      Stopped: at SIGTERM or Ctrl-C.
    """
    workdir = pathlib.Path(workdir)
    with stopping():
        asked = request._replace(sampler=elsewhere.completed(SAMPLER, request.sampler))
        with progress.announced("loading the weights"):
            loaded = restore.load(workdir, asked)
        grid_check.warn_of_other_sampler(loaded.request.sampler)
        request, given = loaded.request, of_samples(loaded)
        shards = Shards(
            generate.output_path(workdir, request, "pairs"),
            generate.settings(request, loaded.digest) | given.settings(),
            count=request.num_samples,
            size=request.shard_size,
        )
        with generate.resumed(shards, loaded) as missing:
            if missing:
                _fill(shards, loaded, given)
                _conclude(shards, loaded, given)
    return shards.result


def _fill(shards: Shards, loaded: Loaded, given: Conditions) -> None:
    """Samples the shards that are missing."""
    request = loaded.request
    sample_fn = compiled_sampler.make_sample_fn(
        loaded.model,
        request.sampler,
        **generate.program(request),
        output_fn=lambda result, noise: {"samples": result.x, "noise": noise},
        purpose=rng.PAIRS,
    )
    write = lambda number, arrays: shards.write(number, **arrays)
    generate.fill(shards, sample_fn, loaded.params, request, given, write)


def _conclude(shards: Shards, loaded: Loaded, given: Conditions) -> None:
    """Measures the straightness, writes the result, and says so."""
    with progress.announced("measuring the straightness"):
        found = path_straightness(loaded, given)
    levels = loaded.model.transform.levels
    entries = {
        "levels": levels,
        "conditions": given.vectors,
        "straightness": None if found is None else json.dumps(found),
    }
    recipe = generate.summary(loaded.request)
    with progress.announced("writing the result"):
        shards.conclude(
            labels=given.labels,
            num_classes=loaded.model.num_classes,
            recipe=recipe,
            original=json.dumps(_original(loaded)),
            **{name: value for name, value in entries.items() if value is not None},
        )
    print(f"{recipe}\n{_words(found)}\n{shards.result}", flush=True)


def _original(loaded: Loaded) -> Mapping[str, Any]:
    """Returns the original data of the pairs; for a model of pairs, of those pairs."""
    examples = loaded.identity["examples"]
    own = {"data": schema.data_arguments(loaded.config["data"]), "examples": examples}
    return examples.get("original", own)


def path_straightness(loaded: Loaded, given: Conditions) -> dict[str, Any] | None:
    """Measures the straightness of at most `NUM_PATHS` sampling paths, as plain values.

    Args:
      loaded: with a complete request.
      given: conditions of all samples.

    Returns:
      `mean` and `standard_error` of the sum over the event (NaN of one path),
      `dimensions` to divide them by, and `num_paths`; None of a sampler that draws
      noise, whose paths are no curves.
    """
    request, model = loaded.request, loaded.model
    if build.sampler(request.sampler).num_noises:
        return None
    schedule = model.objective.schedule
    times = build.grid(request.sampler, schedule)
    count = min(request.num_samples, NUM_PATHS)
    sample_fn = compiled_sampler.make_sample_fn(
        model,
        request.sampler,
        **generate.program(request),
        output_fn=lambda result, noise: _straightness(result, times, schedule),
        trajectory=True,
    )
    values = sample_fn(loaded.params, request.seed, given.part(0, count)).astype(float)
    error = values.std(ddof=1) / math.sqrt(count) if count > 1 else math.nan
    return {
        "mean": float(values.mean()),
        "standard_error": float(error),
        "dimensions": math.prod(model.event_shape),
        "num_paths": count,
    }


def _straightness(
    result: samplers.Result, times: np.ndarray, schedule: Schedule
) -> jax.Array:
    """Computes each path's straightness, `[batch]`; a last step to data has level 0."""
    states = result.trajectory
    flow, levels = metrics.in_flow_coordinates(
        states[: len(times)], times, schedule=schedule
    )
    if len(states) > len(times):
        flow, levels = jnp.concatenate([flow, states[-1:]]), jnp.append(levels, 0)
    return metrics.straightness(flow, levels)


def _words(found: Mapping[str, Any] | None) -> str:
    """Formats the straightness on one line."""
    if found is None:
        return "straightness: not measured, as the sampler draws noise in its steps"
    mean, error, size = (
        found[name] for name in ("mean", "standard_error", "dimensions")
    )
    return (
        f"straightness of {found['num_paths']:,} paths: {mean / size:.4g} +- "
        f"{error / size:.2g} per dimension, {mean:.4g} +- {error:.2g} in all "
        "(mean and standard error; 0 if straight)"
    )
