"""Times as samplers and denoisers take them, and the table of a sampler's steps."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from diffusionflow._dataclass import is_traced
from diffusionflow._numeric import in_float64
from diffusionflow.predictions import DenoiseFn
from diffusionflow.schedules import Schedule


def as_grid(times: ArrayLike) -> ArrayLike:
    """`times` as one array of a floating type: NumPy's where they are known."""
    times = jnp.asarray(times) if is_traced(times) else np.asarray(times)
    floating = jnp.issubdtype(times.dtype, jnp.floating)
    return times if floating else times.astype(float)


def table(sampler: Any, times: ArrayLike, schedule: Schedule) -> Any:
    """`sampler.plan` over neighbouring times, in float64 where all is concrete."""
    if is_traced(sampler, times, schedule):
        times = jnp.asarray(times)  # in the type that JAX has for traced arrays
    steps = lambda sampler, times, schedule: sampler.plan(
        times[:-1], times[1:], schedule
    )
    return in_float64(steps, sampler, times, schedule)


def check_denoiser(denoise_fn: DenoiseFn, t: ArrayLike, like: Array) -> None:
    """Raises where `denoise_fn` cannot be evaluated at `t`.

    Args:
      denoise_fn: looked at if it has `check`.
      t: times, any shape.
      like: an array of the type that times have when they reach `denoise_fn`: in
        float32 a time near 1 may be 1.

    Raises:
      ValueError: from `denoise_fn.check`, at the times as given or as they arrive.
    """
    if not hasattr(denoise_fn, "check"):
        return
    denoise_fn.check(t)
    if is_traced(t):
        return
    try:
        denoise_fn.check(np.asarray(t).astype(like.dtype))
    except ValueError as error:
        raise ValueError(f"at times rounded to {like.dtype}: {error}") from error
