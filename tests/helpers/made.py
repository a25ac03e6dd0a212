"""Runs that nothing trained: directories with the files that a comparison reads.

Every number is drawn here, so what a comparison should find is known.
"""

import functools
import json
import zlib

import jax
import numpy as np

from diffusionflow import metrics
from experiments.checkpointing import identity
from experiments.config import build, experiment
from experiments.evaluation import results
from tests.helpers import tiny

COUNT = 200
SAMPLERS = (
    {"name": "ddim", "num_steps": 2, "grid": "uniform"},
    {"name": "ddim", "num_steps": 8, "grid": "uniform"},
)
LEVELS = 6


@functools.cache
def identity_of(**overrides):
    config = tiny.config(**overrides)
    dataset = build.dataset(config.data)
    built = experiment.from_config(config).model(dataset)
    return identity.make(
        json.loads(config.to_json_best_effort()), built, dataset.identity()
    )


def _estimates(x, data, settings):
    rows, every = [], []
    for name, metric in (("energy", metrics.energy()), ("frechet", metrics.Frechet())):
        estimate, resamples = metrics.measure_resampled(
            jax.random.key(settings["samples"]["seed"]),
            metric,
            x,
            data,
            features="pixels",
            reference="made",
            num_resamples=39,
        )
        rows.append({"metric": name, **estimate._asdict()})
        every.append(resamples)
    return rows, np.stack(every)


def evaluation(path, rng, shift, settings, meaning, levels):
    """Writes `eval.json`, `eval.npz` and samples; see `run`."""
    common = np.random.RandomState(0)
    nats = 3 + common.standard_normal(COUNT)
    bound = nats + shift + 0.1 * rng.standard_normal(COUNT)
    errors = 0.2 + 0.01 * common.standard_normal((COUNT, LEVELS)) + 0.1 * shift
    errors += 1e-4 * rng.standard_normal((COUNT, LEVELS))
    errors[:, levels:] = np.nan
    arrays = {"bound": bound, "ode": bound - 0.05, "eps_mse_ema": errors}
    data = common.standard_normal((80, 2))
    noise = common.standard_normal((60, 2))
    samples = []
    for number, sampler in enumerate(SAMPLERS):
        x = (1 + shift) * noise + 1 / sampler["num_steps"]
        rows, arrays[f"samples_{number}"] = _estimates(x, data, settings)
        file = f"samples/samples_{number}.npz"
        names = ("step", "weights", "parameters")
        drawn = {name: settings[name] for name in names} | settings["samples"]
        np.savez(
            path / file,
            samples=x.astype(np.float32),
            labels=np.arange(60) % 2,
            settings=json.dumps(drawn | {"guidance": 1.0, "label": None}),
        )
        samples.append(
            {
                "file": file,
                "sampler": sampler,
                "guidance": 1.0,
                "nfe": sampler["num_steps"],
                "count": 60,
                "metrics": rows,
            }
        )
    values = {
        "settings": settings,
        "identity": meaning,
        "left_out": {},
        "likelihood": {
            "unit": "nats per dimension",
            "count": COUNT,
            **{
                name: {"mean": float(arrays[name].mean()), "stderr": 0.05}
                for name in ("bound", "ode")
            },
            "ode_ends": {"data": None, "noise": None},
            "solver_error": {"mean": -0.001, "stderr": 2e-4, "count": 25, "steps": 8},
        },
        "held_out_baseline": _estimates(
            common.standard_normal((50, 2)), data, settings
        )[0],
        "samples": samples,
    }
    results.write(path / "eval.json", values, arrays)


def run(
    path, *, shift=0.0, seed=0, levels=LEVELS, evaluated=True, settings=(), **overrides
):
    """A run with `shift` nats and a tenth of it in the error of eps above another.

    Args:
      path: its directory.
      shift: of its numbers; its samples are wider by this share.
      seed: of training.
      levels: how many of the levels its schedule reaches.
      evaluated: whether it has an evaluation that counts.
      settings: entries of the evaluation that differ, by dotted name.
      overrides: of the config.
    """
    (path / "samples").mkdir(parents=True)
    meaning = identity_of(seed=seed, **overrides)
    found = {
        "step": 10,
        "weights": "ema",
        "parameters": f"{zlib.crc32(str(path).encode()):08x}",
        "likelihood": {"ode_steps": 4, "seed": 0},
        "samples": {"seed": 0},
    }
    for name, value in dict(settings).items():
        section, _, key = name.rpartition(".")
        (found[section] if section else found)[key] = value
    rng = np.random.RandomState(zlib.crc32(path.name.encode()))
    evaluation(path, rng, shift, found, meaning, levels)
    if not evaluated:
        (path / "eval.npz").unlink()
    rows = [
        {"step": step, "loss": 1.0, "test_eps_mse_ema": 1 / step + 0.1 * shift}
        for step in (5, 10)
    ]
    times = [{"step": step, "examples_per_second": 100.0 * step} for step in (4, 5, 10)]
    for name, lines in (("metrics.jsonl", rows), ("wall_clock.jsonl", times)):
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (path / name).write_text(text + '{"step": 11, "lo')
    (path / "environment.json").write_text(
        json.dumps({"platform": "Test", "devices": ["0: cpu"]})
    )
    return path
