"""Pictures to noise by a deterministic sampler, and back.

The grid is gone through from the data to the noise, and then as in sampling. Near
sigma = 0 a network cannot tell the noise from z: the way up begins where
sigma / alpha = 1/1000, or where the grid ends if that is more.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffusionflow import samplers
from diffusionflow.predictions import DenoiseFn
from diffusionflow.schedules import Schedule
from experiments.config.model import Model
from experiments.runtime.errors import UsageError
from experiments.sampling.edits import Edit, FirstFn, Parts

RATIO = 1e-3  # sigma / alpha at which a picture passes for its noised self
WANTED = 2e-2  # root mean square of the difference above which a warning is printed
SPREAD = 3.0  # standard deviations of noise that a picture shows from black to white


def check_invertible(option: str, model: Model, sampler: Any, name: str) -> None:
    """Raises a `UsageError` unless a sampler goes from data to noise as well.

    Args:
      option: that asks for it.
      model: of the run.
      sampler: any.
      name: of it, as it is written in a config.
    """
    if sampler.num_noises:
        raise UsageError(
            f"--{option} with --sampler.name={name}: must be a deterministic sampler; "
            "euler(variable='x') makes the steps of ddim, heun(variable='u') is more "
            "accurate"
        )
    if not model.predicts_at_one_time:
        raise UsageError(
            f"--{option}: the network of this run only jumps toward the data; take the "
            "run of its teacher"
        )


def rising(times: np.ndarray, schedule: Schedule) -> np.ndarray:
    """Makes the grid from data to noise, float64, without times of too little noise.

    Args:
      times: float64 [num_steps + 1], falling.
      schedule: of the model.

    Raises:
      UsageError: all of its times have too little noise.
    """
    highest = -2 * math.log(RATIO)  # log-SNR
    noisy = np.asarray(schedule.logsnr(times)) < highest
    if not noisy[0]:
        raise UsageError(
            "sampler.grid: begins with too little noise: must begin below log-SNR "
            f"{highest:.4g} to invert"
        )
    found = times[noisy][::-1]
    first = float(np.asarray(schedule.inverse_logsnr(highest)))
    return found if noisy.all() or first >= found[0] else np.append(first, found)


def encode(parts: Parts, denoise_fn: DenoiseFn, x: jax.Array) -> jax.Array:
    """Inverts the sampler; returns z at the first time of the grid, `[n, *event]`.

    Args:
      parts: with a deterministic sampler.
      denoise_fn: `(z, t) -> Denoised`.
      x: data, `[n, *event]`.
    """
    times, schedule = rising(parts.times, parts.schedule), parts.schedule
    z = jnp.asarray(schedule.alpha(times[0]), x.dtype) * x
    return samplers.invert(
        denoise_fn, z, times, sampler=parts.sampler, schedule=schedule
    ).x


def standardized(z: jax.Array, parts: Parts) -> jax.Array:
    """Computes the noise eps such that `sigma eps` is z at the first time."""
    return z / jnp.asarray(parts.schedule.sigma(parts.times[0]), z.dtype)


class Encoding(Edit):
    """The noise of pictures: what the sampler makes each of them from.

    Args:
      pictures: float32 [k, *event].
    """

    def __init__(self, pictures: np.ndarray):
        self._pictures = pictures

    def inputs(self, number: np.ndarray, purpose: int) -> Any:
        del purpose
        return self._pictures[number % len(self._pictures)]

    def sample(
        self, parts: Parts, keys: jax.Array, denoise_fn: DenoiseFn, inputs: Any
    ) -> Any:
        del keys
        return standardized(encode(parts, denoise_fn, inputs), parts)


class RoundTrip(Encoding):
    """Pictures to noise and back: `noise`, `samples`, and their distance `rms`."""

    def sample(
        self, parts: Parts, keys: jax.Array, denoise_fn: DenoiseFn, inputs: Any
    ) -> Any:
        z = encode(parts, denoise_fn, inputs)
        x = samplers.sample(
            keys,
            denoise_fn,
            z,
            parts.times,
            sampler=parts.sampler,
            schedule=parts.schedule,
        ).x
        axes = tuple(range(1, x.ndim))
        error = jnp.sqrt(jnp.mean((x - inputs) ** 2, axis=axes))
        return {"samples": x, "noise": standardized(z, parts), "rms": error}

    def above(self, count: int, first_fn: FirstFn) -> list[np.ndarray]:
        noise = first_fn(count, "noise") / np.float32(SPREAD)
        return [self.inputs(np.arange(count), 0), np.clip(noise, -1, 1)]

    def findings(self, first_fn: FirstFn) -> str | None:
        rms = first_fn(len(self._pictures), "rms").astype(float)
        total = math.sqrt(np.mean(rms**2))
        more = "" if total <= WANTED else "; more --sampler.num_steps return more of it"
        return (
            f"there and back: {total:.2g} root mean square difference, "
            f"{rms.max():.2g} at most of a picture, in the data's scale{more}"
        )
