"""From data to noise, with the deterministic samplers run backwards."""

from typing import Any

import numpy as np
from jax import Array
from jax.typing import ArrayLike

from diffusionflow import grids
from diffusionflow._dataclass import is_traced
from diffusionflow._numeric import in_float64
from diffusionflow.predictions import DenoiseFn
from diffusionflow.samplers.base import Result, run
from diffusionflow.schedules import Schedule


def invert(
    denoise_fn: DenoiseFn,
    z: Array,
    times: ArrayLike,
    *,
    sampler: Any,
    schedule: Schedule,
    trajectory: bool = False,
) -> Result:
    """The noise that a deterministic sampler would have made `z` from.

    The sampler's own steps along a rising grid; sampling from the result along the
    reversed grid gives `z` back up to the discretisation error.

    Args:
      denoise_fn: `(z, t) -> Denoised`.
      z: at the first time, `[*batch, *event]`.
      times: a grid, `[num_steps + 1]`, rising. It should begin at a time with sigma > 0
        (there `z` is the data, to within sigma): at sigma = 0 a network has no noise to
        tell from z, and the first step would put the posterior mean, 0, in its place.
      sampler: one that draws no noise; `Euler("x")` is DDIM.
      schedule: the one of `denoise_fn`.
      trajectory: as in `run`.

    Returns:
      `Result`, whose `x` is z at the last time.

    Raises:
      ValueError: `times` is no rising grid, or the sampler draws noise.

    Source: Song et al. 2020, arXiv 2010.02502, section 4.3, for DDIM.
    """
    if sampler.num_noises:
        raise ValueError(
            f"{sampler} draws noise: to invert, use a deterministic sampler; "
            'Euler("x") is DDIM'
        )
    if not is_traced(times):
        grids.check_grid(np.asarray(times)[::-1])
    steps = lambda times, schedule: sampler.plan(times[:-1], times[1:], schedule)
    rows = in_float64(steps, times, schedule)
    return run(None, denoise_fn, z, rows, sampler=sampler, trajectory=trajectory)
