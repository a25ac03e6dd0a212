"""Checks of timestep schedules and samplers, and the table of a sampler's steps."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from diffusionflow._dataclass import check_instance, is_traced
from diffusionflow._numeric import in_float64
from diffusionflow.predictions import Denoiser
from diffusionflow.schedules import Schedule, as_schedule


def as_grid(times: ArrayLike) -> Array:
    """Converts `times` to one floating array, of NumPy where they are concrete."""
    grid: Any = jnp.asarray(times) if is_traced(times) else np.asarray(times)
    floating = jnp.issubdtype(grid.dtype, jnp.floating)
    return grid if floating else grid.astype(float)


def table(sampler: Any, times: ArrayLike, schedule: Schedule) -> Any:
    """Calls `sampler.plan` on neighbouring times, in float64 where all is concrete."""
    as_schedule(schedule)
    if is_traced(sampler, times, schedule):
        times = jnp.asarray(times)  # in the type that JAX has for traced arrays
    steps = lambda sampler, times, schedule: sampler.plan(
        times[:-1], times[1:], schedule=schedule
    )
    return in_float64(steps, sampler, times, schedule)


METHODS = ("plan", "init", "step", "output")


def check_sampler(sampler: Any, methods: tuple[str, ...] = METHODS) -> Any:
    """Returns `sampler`, after checking that it is one.

    Raises:
      ValueError: it is a string, a class, a function, or lacks a method.
    """
    check_instance("sampler", sampler, "samplers.ddim()")
    lacking = [name for name in ("num_noises", *methods) if not hasattr(sampler, name)]
    if lacking:
        raise ValueError(
            f"sampler={sampler!r}: must have {', '.join(lacking)}; pass a sampler such "
            "as samplers.ddim(), or see the module docstring of samplers.base"
        )
    return sampler


def check_times(denoiser: Denoiser, t: ArrayLike, like: Array) -> None:
    """Raises where `denoiser` cannot be evaluated at `t`.

    Args:
      denoiser: its `check_times` says where.
      t: times, any shape.
      like: an array of the type that times have when they reach `denoiser`: in float32
        a time near 1 may be 1.

    Raises:
      ValueError: from `denoiser.check_times`, at the times as given or as they arrive.
    """
    denoiser.check_times(t)
    if is_traced(t):
        return
    try:
        denoiser.check_times(np.asarray(t).astype(like.dtype))
    except ValueError as error:
        raise ValueError(f"at times rounded to {like.dtype}: {error}") from error
