"""Likelihoods of the held-out examples of a run, in units that do not depend on it.

Per example, given its label: the bound in continuous time over a range of log-SNRs,
and the density by the probability-flow ODE, of uniformly dequantised values where the
data have levels.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffusionflow import likelihood, random, times
from diffusionflow.schedules import Schedule
from experiments import batches, devices, step
from experiments.data import DataTransform, Examples
from experiments.metrics import plain
from experiments.model import Model
from experiments.parts import Parts

SIGMAS = 3.5
TERMS = ("bound", "recon", "diffusion", "prior")


class Settings(NamedTuple):
    """What the numbers depend on, beside weights and examples.

    Fields:
      logsnr_min: where the bound begins, or where the schedule does.
      logsnr_max: where it ends, likewise; None for what the data need, see `reach`.
      num_times: times of the bound in each of its draws.
      num_draws: independent draws of the bound.
      ode_steps: of the fourth-order method.
      num_probes: for the divergence of the ODE.
      seed: of all that is drawn.
    """

    logsnr_min: float = -10.0
    logsnr_max: float | None = None
    num_times: int = 32
    num_draws: int = 2
    ode_steps: int = 50
    num_probes: int = 4
    seed: int = 0


def levels_of(transform: DataTransform) -> likelihood.Levels | None:
    """The levels that floats have after the transform, from -1 to 1."""
    if transform.levels is None:
        return None
    return likelihood.Levels.between(transform.levels, -1.0, 1.0)


def reach(model: Model, settings: Settings) -> tuple[float, float]:
    """The range of log-SNRs of the bound: of the settings, as far as the schedule goes.

    Every range gives a bound. By default it ends where a level is told from its
    neighbours by `SIGMAS` deviations of the noise, beyond which a network that is not
    exact only adds to it; for data without levels, at 10.
    """
    schedule, levels = model.objective.schedule, levels_of(model.transform)
    with jax.ensure_compile_time_eval():
        low, high = (float(schedule.logsnr(jnp.float32(t))) for t in (1, 0))
    last = settings.logsnr_max
    if last is None:
        last = 10.0 if levels is None else 2 * math.log(2 * SIGMAS / levels.width)
    return max(low, settings.logsnr_min), min(high, last)


def per_example(
    model: Model,
    params: Any,
    examples: Examples,
    settings: Settings,
    parts: Parts,
    *,
    batch_size: int,
) -> dict[str, np.ndarray]:
    """Nats of each example, `[n]` each, computed in batches of which each is kept.

    Args:
      model: of the run.
      params: raw or averaged.
      examples: held out, with their labels.
      settings: of bound and ODE.
      parts: where the batches are kept.
      batch_size: of a batch.

    Returns:
      `recon`, `diffusion`, `prior` and `bound`, their sum, with `bound_stderr` over
      draws; `ode`, `-log p`, with `ode_stderr` over probes.
    """
    bound_fn = _compiled(_bound, model, settings)
    ode_fn = _compiled(_ode, model, settings)
    found: dict[str, list[np.ndarray]] = {}
    for number, mask in batches.padded(len(examples.labels), batch_size):

        def compute(
            number: np.ndarray = number, mask: np.ndarray = mask
        ) -> Mapping[str, np.ndarray]:
            batch = examples.gather(number)
            arguments = (params, *batch, number.astype(np.int32))
            values = bound_fn(*arguments) | ode_fn(*arguments)
            return {name: np.asarray(value)[mask] for name, value in values.items()}

        part = parts.get(f"likelihood-{number[0]:08d}", compute)
        for name, value in part.items():
            found.setdefault(name, []).append(value)
    return {name: np.concatenate(values) for name, values in found.items()}


def _compiled(fn: Any, model: Model, settings: Settings) -> Any:
    def program(params: Any, values: Any, labels: Any, number: Any) -> Any:
        key = step.stream(settings.seed, step.EVALUATE)
        keys = random.example_keys(key, number)
        x = model.transform.to_float(values)
        return fn(keys, model, model.denoise_fn(params, labels, 1), x, settings)

    return jax.jit(program, compiler_options=devices.compiler_options())


def _bound(
    keys: jax.Array, model: Model, denoise_fn: Any, x: jax.Array, settings: Settings
) -> dict[str, jax.Array]:
    schedule = model.objective.schedule
    low, high = reach(model, settings)
    found = likelihood.continuous_bound(
        keys,
        denoise_fn,
        x,
        schedule=schedule,
        density=times.UniformLogSNR(low, high),
        levels=levels_of(model.transform),
        prior="standard",  # of the noise at hand: the same whatever a schedule's scale
        num_times=settings.num_times,
        num_draws=settings.num_draws,
        t_min=_time(schedule, high),
        t_max=_time(schedule, low),
    )
    names = ("recon", "diffusion", "prior")
    terms = {name: getattr(found, name) for name in names}
    return terms | {"bound": found.total, "bound_stderr": found.stderr}


def _ode(
    keys: jax.Array, model: Model, denoise_fn: Any, x: jax.Array, settings: Settings
) -> dict[str, jax.Array]:
    schedule, levels = model.objective.schedule, levels_of(model.transform)
    noise_keys, probe_keys = random.split(keys)
    if levels is not None:
        x = levels.dequantise(noise_keys, x)
    low, high = reach(model, settings)
    t_data = _end(denoise_fn, schedule, 0.0, high)
    alpha = schedule.alpha(jnp.float32(t_data))
    found = likelihood.encode(
        probe_keys,
        denoise_fn,
        alpha * x,
        schedule=schedule,
        trace=likelihood.Hutchinson(settings.num_probes),
        solver=likelihood.Fixed(settings.ode_steps),
        t_data=t_data,
        t_noise=_end(denoise_fn, schedule, 1.0, low),
    )
    log_p = found.log_p + math.prod(model.event_shape) * jnp.log(alpha)  # of x itself
    return {"ode": -log_p, "ode_stderr": found.stderr}


def _end(denoise_fn: Any, schedule: Schedule, t: float, logsnr: float) -> float:
    """`t`, or the time of a log-SNR where the network is singular at `t`.

    At the data this makes another model, whose samples have that little noise, and its
    likelihood is exact: an x network has no ODE that goes on to sigma = 0.
    """
    try:
        denoise_fn.check(t)
    except ValueError:
        return _time(schedule, logsnr)
    return t


def _time(schedule: Schedule, logsnr: float) -> float:
    with jax.ensure_compile_time_eval():
        return float(schedule.inverse_logsnr(jnp.float32(logsnr)))


def in_units(found: Mapping[str, np.ndarray], model: Model) -> dict[str, np.ndarray]:
    """Each example's bound, its terms, and density: bits or nats per dimension, `[n]`.

    Bits where the data have levels.
    """
    dim, levels = int(np.prod(model.event_shape)), levels_of(model.transform)
    cells = dict.fromkeys(TERMS, "discrete") | {"ode": levels}
    values = {name: np.asarray(found[name], np.float64) for name in cells}
    if levels is None:
        return {name: value / dim for name, value in values.items()}
    with jax.enable_x64(True):
        return {
            name: np.asarray(likelihood.bits_per_dim(value, dim=dim, cell=cells[name]))
            for name, value in values.items()
        }


def summary(
    found: Mapping[str, np.ndarray], model: Model, settings: Settings
) -> dict[str, Any]:
    """Means over examples with their standard errors, as JSON values.

    In bits per dimension where the data have levels, else in nats per dimension.
    """
    dim, levels = int(np.prod(model.event_shape)), levels_of(model.transform)
    with jax.enable_x64(True):
        means = {
            name: likelihood.summarise(value)
            for name, value in in_units(found, model).items()
        }
    values = {
        name: {"mean": float(each.mean), "stderr": float(each.stderr)}
        for name, each in means.items()
    }
    for name in ("bound", "ode"):
        error = _of_draws(found[f"{name}_stderr"], dim, levels)
        values[name]["stderr_draws"] = plain(error)
    return {
        "unit": "nats per dimension" if levels is None else "bits per dimension",
        "count": len(found["bound"]),
        "logsnr_range": reach(model, settings),
        **values,
    }


def _of_draws(stderr: np.ndarray, dim: int, levels: Any) -> float:
    """The part of the error of a mean that more draws or probes would lessen.

    NaN where there is but one.
    """
    nats = float(np.sqrt(np.sum(np.square(stderr, dtype=np.float64)))) / len(stderr)
    return nats / dim / (1.0 if levels is None else np.log(2))
