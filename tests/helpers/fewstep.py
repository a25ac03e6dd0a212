"""The exact values of few-step methods, and the flow map of Gaussian data.

`tests/data/testvectors_fewstep.json` holds 20-digit values from an independent
evaluation in arbitrary precision. Tests name its entries `group/name`;
`test_every_vector_is_tested` reads these names from their files.
"""

import fnmatch
import json
import pathlib
import re

import jax.numpy as jnp
import numpy as np

from diffusionflow import distillation, schedules
from diffusionflow.predictions import per_event

TESTS = pathlib.Path(__file__).parents[1]
VECTORS = json.loads((TESTS / "data" / "testvectors_fewstep.json").read_text())
SCHEDULES = {
    "flow": schedules.FlowMatching(),
    "cosine": schedules.Cosine(),
    "vp": schedules.LinearBeta(),
    "edm": schedules.Interpolated(jnp.ones_like, lambda t: 80 * t),  # sigma = 80 t
}
TOP = {"edm": 80.0}  # times of the vectors are sigma there


def karras(count):
    """Levels 0.002..80 of consistency models, rising."""
    return np.linspace(0.002 ** (1 / 7), 80 ** (1 / 7), count) ** 7


def names(pattern):
    """The entries `group/name` that a pattern with `*` matches."""
    every = [
        f"{group}/{name}"
        for group, entries in VECTORS.items()
        if isinstance(entries, dict)
        for name in entries
    ]
    found = fnmatch.filter(every, pattern)
    assert found, pattern
    return found


def _numbers(found):
    if isinstance(found, dict):
        return {name: _numbers(each) for name, each in found.items()}
    if isinstance(found, list):
        return [_numbers(each) for each in found]
    try:
        return float(found)
    except ValueError:
        return found


def value(name):
    """The value of an entry, in floats."""
    group, entry = name.split("/")
    return _numbers(VECTORS[group][entry]["value"])


def inputs(name):
    """The inputs of an entry, in floats."""
    group, entry = name.split("/")
    return _numbers(VECTORS[group][entry].get("inputs", {}))


def named_in(text):
    """The entries that the text of a test file names."""
    found = re.findall(r'"((?:\w+)/[\w.*-]+)"', text)
    groups = {name.split("/")[0] for name in names("*")}
    return {
        name
        for pattern in found
        if pattern.split("/")[0] in groups
        for name in names(pattern)
    }


def variance(schedule, t, v):
    """Variance of z at t for data of variance v."""
    return schedule.alpha(t) ** 2 * v + schedule.sigma(t) ** 2


def gaussian_map(schedule, mean, v):
    """The flow map `(z, t, s) -> z_s` of N(mean, v), in closed form."""

    def fn(z, t, s):
        scale = jnp.sqrt(variance(schedule, s, v) / variance(schedule, t, v))
        offset = z - per_event(jnp.asarray(schedule.alpha(t)), z) * mean
        return per_event(jnp.asarray(schedule.alpha(s)), z) * mean + (
            per_event(jnp.asarray(scale), z) * offset
        )

    return fn


def exact_predict_fn(kind, schedule, mean, v):
    """The two-time prediction of N(mean, v), for s < t."""
    move = gaussian_map(schedule, mean, v)
    return lambda z, t, s: distillation.inverse_jump(
        move(z, t, s), z=z, t=t, s=s, kind=kind, schedule=schedule
    )
