"""Computes likelihoods of the held-out examples, in nats (others: `bits_per_dim`).

Per example, given its label and vector: the variational bound in continuous time over a
range of log-SNRs, and the density by the probability-flow ODE, of uniformly dequantised
values where the data have levels.
"""

import functools
import math
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffusionflow import likelihood, predictions, random, times
from diffusionflow.schedules import Schedule
from experiments.config.model import Model
from experiments.data import loader
from experiments.data.base import DataTransform, Examples
from experiments.evaluation.result_cache import Arrays, Chunks
from experiments.runtime import progress, rng, sharding
from experiments.runtime.errors import UsageError

NAMES = {  # of what is computed, for the progress
    "bound": "likelihood, variational bound",
    "ode": "likelihood, probability-flow ODE",
}
SIGMAS = 3.5
STEPS, POWER = 25, 3.0  # of the ODE's solver; its error is measured and printed
MAX_ACCURACY_CHECKS = 64  # examples whose ODE is also solved in twice the steps

ChunksFn = Callable[[str, Mapping[str, Any]], Chunks]


class Settings(NamedTuple):
    """What the numbers depend on, besides weights and examples.

    Fields:
      logsnr_min: where the bound begins, at least the schedule's minimum.
      logsnr_max: where it ends, likewise; None for the end that `reach` derives from
        the data.
      num_times: times of the bound in each of its draws.
      num_draws: independent draws of the bound.
      ode_steps: of the fourth-order method.
      num_probes: for the divergence of the ODE.
      seed: of all random numbers.
      ode_power: the steps are equal in the angle to the power of its inverse.
    """

    logsnr_min: float = -10.0
    logsnr_max: float | None = None
    num_times: int = 32
    num_draws: int = 2
    ode_steps: int = STEPS
    num_probes: int = 2
    seed: int = 0
    ode_power: float = POWER


def levels_of(transform: DataTransform) -> likelihood.QuantizedLevels | None:
    """Returns the quantization levels of floats after the transform, from -1 to 1."""
    if transform.levels is None:
        return None
    return likelihood.QuantizedLevels.between(transform.levels, -1.0, 1.0)


def reach(model: Model, settings: Settings) -> tuple[float, float]:
    """Returns the log-SNR range of the bound: of the settings, within the schedule's.

    Every range gives a bound. By default it ends where half the distance of two levels
    is `SIGMAS` standard deviations of the noise, beyond which a network that is not
    exact only adds to it; for data without levels, at 10.
    """
    schedule, levels = model.objective.schedule, levels_of(model.transform)
    low, high = schedule.logsnr_range()
    last = settings.logsnr_max
    if last is None:
        last = 10.0 if levels is None else 2 * math.log(2 * SIGMAS / levels.width)
    return max(low, settings.logsnr_min), min(high, last)


def check_reach(model: Model, settings: Settings) -> None:
    """Raises a `UsageError` where there is no log-SNR in the range of the bound."""
    low, high = reach(model, settings)
    first, last = model.objective.schedule.logsnr_range()
    if not low < high:
        raise UsageError(
            f"logsnr_min={settings.logsnr_min:g}, logsnr_max={settings.logsnr_max}: "
            f"the bound would go from {low:.4g} to {high:.4g}; must be a range, inside "
            f"that of the schedule, {first:.4g} to {last:.4g}"
        )


def per_example(
    model: Model,
    params: Any,
    examples: Examples,
    settings: Settings,
    chunks_fn: ChunksFn,
    *,
    batch_size: int,
    left_out: Collection[str] = (),
) -> dict[str, np.ndarray]:
    """Computes the nats of each example, `[n]` each, in batches that are cached.

    Args:
      model: of the run.
      params: raw or averaged.
      examples: held out, with their labels.
      settings: of bound and ODE.
      chunks_fn: cache of the batches of a kind, by its settings.
      batch_size: of a batch.
      left_out: of `NAMES`, what is not computed.

    Returns:
      `recon`, `diffusion`, `prior` and `bound`, their sum, with `bound_stderr` over
      draws; `ode`, `-log p`, with `ode_stderr` over probes; and `ode_again` of the
      first `num_again` examples, in twice the steps with the same noise and probes.
    """
    count = len(examples.labels)

    def computed(kind: str, settings: Settings, count: int, batch_size: int) -> Arrays:
        asked = _asked(kind, model, settings) | {"batch_size": batch_size}
        fn = _compiled({"bound": _bound, "ode": _ode}[kind], model, settings)
        fn, chunks = functools.partial(fn, params), chunks_fn(kind, asked)
        what = NAMES[kind]
        if kind == "ode":
            what += f", {settings.ode_steps} steps"
        return _in_batches(fn, examples, chunks, count, batch_size, what)

    nats: dict[str, np.ndarray] = {}
    for kind in NAMES:
        if kind not in left_out:
            nats |= computed(kind, settings, count, batch_size)
    if "ode" in nats and (again := num_again(count)):
        twice = settings._replace(ode_steps=2 * settings.ode_steps)
        solved = computed("ode", twice, again, min(again, batch_size))
        nats["ode_again"] = solved["ode"]
    return nats


def num_again(count: int) -> int:
    """Returns for how many examples the ODE is solved in twice the steps.

    The difference estimates the solver's error. An eighth of them, for a quarter of the
    ODE's network calls, and 64 at most; none where that is one.
    """
    checked = min(MAX_ACCURACY_CHECKS, count // 8)
    return checked if checked > 1 else 0


def _asked(kind: str, model: Model, settings: Settings) -> dict[str, Any]:
    """Selects the settings that the numbers of a kind depend on."""
    names: tuple[str, ...]
    if kind == "bound":
        known = {"logsnr_range": reach(model, settings)}
        names = ("num_times", "num_draws", "seed")
    else:
        known = {"times": ode_times(model, settings)}
        names = ("ode_steps", "ode_power", "num_probes", "seed")
    return known | {name: getattr(settings, name) for name in names}


def _in_batches(
    fn: Callable[..., Arrays],
    examples: Examples,
    chunks: Chunks,
    count: int,
    batch_size: int,
    what: str,
) -> dict[str, np.ndarray]:
    """Evaluates `fn` on the first `count` examples, in batches that are cached."""
    batches: dict[str, list[np.ndarray]] = {}
    with progress.PartProgress(what, count, "examples") as reported:
        for number, mask in loader.padded(count, batch_size):

            def compute(
                number: np.ndarray = number, mask: np.ndarray = mask
            ) -> Mapping[str, np.ndarray]:
                values = fn(examples.gather(number), number.astype(np.int32))
                return {name: np.asarray(value)[mask] for name, value in values.items()}

            chunk = chunks.get(f"{number[0]:08d}-{number[mask][-1] + 1:08d}", compute)
            for name, value in chunk.items():
                batches.setdefault(name, []).append(value)
            reported.advance(int(mask.sum()))
    return {name: np.concatenate(values) for name, values in batches.items()}


def _compiled(fn: Any, model: Model, settings: Settings) -> Any:
    def program(params: Any, batch: Examples, number: Any) -> Any:
        key = rng.stream(settings.seed, rng.EVALUATE)
        keys = random.example_keys(key, number)
        x = model.transform.to_float(batch.values)
        denoise_fn = model.denoise_fn(params, batch.labels, 1, batch.conditions)
        return fn(keys, model, denoise_fn, x, settings)

    return jax.jit(program, compiler_options=sharding.compiler_options())


def _bound(
    keys: jax.Array, model: Model, denoise_fn: Any, x: jax.Array, settings: Settings
) -> dict[str, jax.Array]:
    schedule = model.objective.schedule
    low, high = reach(model, settings)
    bound = likelihood.continuous_bound(
        keys,
        denoise_fn,
        x,
        schedule=schedule,
        density=times.UniformLogSNR(low, high),
        levels=levels_of(model.transform),
        prior="standard",  # of the noise itself: independent of a schedule's scale
        num_times=settings.num_times,
        num_draws=settings.num_draws,
        t_min=_time(schedule, high),
        t_max=_time(schedule, low),
    )
    names = ("recon", "diffusion", "prior")
    terms = {name: getattr(bound, name) for name in names}
    return terms | {"bound": bound.total, "bound_stderr": bound.stderr}


def _ode(
    keys: jax.Array, model: Model, denoise_fn: Any, x: jax.Array, settings: Settings
) -> dict[str, jax.Array]:
    schedule, levels = model.objective.schedule, levels_of(model.transform)
    noise_keys, probe_keys = random.split(keys)
    if levels is not None:
        x = levels.dequantise(noise_keys, x)
    t_min, t_max = ode_times(model, settings)
    alpha = float(schedule.alpha(t_min))
    flow = likelihood.encode(
        probe_keys,
        denoise_fn,
        alpha * x,
        schedule=schedule,
        trace=likelihood.Hutchinson(settings.num_probes),
        solver=likelihood.Fixed(settings.ode_steps, power=settings.ode_power),
        t_min=t_min,
        t_max=t_max,
    )
    log_p = flow.log_p + math.prod(model.event_shape) * math.log(alpha)  # of x itself
    return {"ode": -log_p, "ode_stderr": flow.stderr}


def ode_times(model: Model, settings: Settings) -> tuple[float, float]:
    """Returns the times between which the ODE is solved: 0 and 1 where possible.

    Where the network is singular, the time of the log-SNR at which the bound ends. At
    the data that makes a different model, whose samples have that little noise, and its
    likelihood is exact: an x network has no ODE that extends to sigma = 0.
    """
    objective = model.objective
    zero_fn = lambda z, t: jnp.zeros_like(z)
    denoise_fn = predictions.denoiser(
        zero_fn, kind=objective.kind, schedule=objective.schedule
    )
    low, high = reach(model, settings)

    def nearest(t: float, logsnr: float) -> float:
        try:
            denoise_fn.check_times(t)
        except ValueError:
            return _time(objective.schedule, logsnr)
        return t

    return nearest(0.0, high), nearest(1.0, low)


def ode_ends(model: Model, settings: Settings) -> dict[str, float | None]:
    """Returns the log-SNR at which the ODE is truncated, by end; None where it is not.

    Truncated ends follow from the settings, the others from the schedule.
    """
    schedule, ends = model.objective.schedule, {}
    for name, t, own in zip(
        ("data", "noise"), ode_times(model, settings), (0.0, 1.0), strict=True
    ):
        ends[name] = float(schedule.logsnr(t)) if t != own else None
    return ends


def _time(schedule: Schedule, logsnr: float) -> float:
    return float(schedule.inverse_logsnr(logsnr))
