"""Converts likelihoods to bits or nats per dimension, with standard errors."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from diffusionflow import likelihood
from experiments.config.model import Model
from experiments.evaluation.likelihoods import (
    NAMES,
    Settings,
    levels_of,
    ode_ends,
    reach,
)
from experiments.runtime.files import plain

TERMS = ("bound", "recon", "diffusion", "prior")


def in_units(nats: Mapping[str, np.ndarray], model: Model) -> dict[str, np.ndarray]:
    """Converts bound, its terms, and density to bits or nats per dimension, `[n]`.

    Bits where the data have levels.
    """
    dim, levels = _dim(model), levels_of(model.transform)
    cells = dict.fromkeys(TERMS, "discrete") | {"ode": levels}
    values = {
        name: np.asarray(nats[name], np.float64) for name in cells if name in nats
    }
    if levels is None:
        return {name: value / dim for name, value in values.items()}
    with jax.enable_x64(True):
        return {
            name: np.asarray(likelihood.bits_per_dim(value, dim=dim, cell=cells[name]))
            for name, value in values.items()
        }


def summary(
    nats: Mapping[str, np.ndarray], model: Model, settings: Settings
) -> dict[str, Any]:
    """Averages over examples, with standard errors, as JSON values.

    In bits per dimension where the data have levels, else in nats per dimension.
    """
    dim, levels = _dim(model), levels_of(model.transform)
    with jax.enable_x64(True):
        means = {
            name: likelihood.summarise(value)
            for name, value in in_units(nats, model).items()
        }
    values = {
        name: {"mean": float(each.mean), "stderr": float(each.stderr)}
        for name, each in means.items()
    }
    for name in NAMES.keys() & values.keys():
        error = _monte_carlo_error(nats[f"{name}_stderr"], dim, levels)
        values[name]["stderr_draws"] = plain(error)
    return {
        "unit": "nats per dimension" if levels is None else "bits per dimension",
        "count": len(next(iter(nats.values()))),
        "logsnr_range": reach(model, settings),
        "ode_ends": ode_ends(model, settings),
        **values,
        "solver_error": _solver_error(nats, dim, levels, settings),
    }


def _dim(model: Model) -> int:
    return int(np.prod(model.event_shape))


def _solver_error(
    nats: Mapping[str, np.ndarray],
    dim: int,
    levels: Any,
    settings: Settings,
) -> dict[str, Any] | None:
    """Estimates how far the ODE's mean lies above that of twice the steps.

    None if unknown: of fewer than two examples, or where a number is not finite.
    """
    if "ode_again" not in nats:
        return None
    again = np.asarray(nats["ode_again"], np.float64)
    difference = np.asarray(nats["ode"], np.float64)[: len(again)] - again
    error = difference / dim / (1.0 if levels is None else np.log(2))
    if not np.isfinite(error).all():
        return None
    return {
        "mean": plain(error.mean()),
        "stderr": plain(error.std(ddof=1) / np.sqrt(len(error))),
        "count": len(error),
        "steps": 2 * settings.ode_steps,
    }


def _monte_carlo_error(stderr: np.ndarray, dim: int, levels: Any) -> float:
    """Computes the part of a mean's error that more draws or probes would reduce.

    NaN where there is only one.
    """
    nats = float(np.sqrt(np.sum(np.square(stderr, dtype=np.float64)))) / len(stderr)
    return nats / dim / (1.0 if levels is None else np.log(2))
