"""DDIM inversion: runs deterministic samplers from data to noise."""

from typing import Any

from jax import Array
from jax.typing import ArrayLike

from diffusionflow import grids
from diffusionflow.predictions import DenoiseFn, as_data, as_denoiser
from diffusionflow.samplers import tableaus
from diffusionflow.samplers.base import Result, run
from diffusionflow.samplers.steps import as_grid, check_sampler, check_times, table
from diffusionflow.schedules import Schedule, as_schedule


def invert(
    denoise_fn: DenoiseFn,
    z: Array,
    times: ArrayLike,
    *,
    sampler: Any,
    schedule: Schedule,
    trajectory: bool = False,
) -> Result:
    """Inverts a deterministic sampler: returns the noise that it maps to `z`.

    The sampler's own steps along a rising grid; sampling from the result along the
    reversed grid gives `z` back up to the discretisation error.

    Args:
      denoise_fn: `(z, t) -> Denoised`.
      z: at the first time, `[*batch, *event]`.
      times: timestep schedule, `[num_steps + 1]`, rising. It should begin at a time
        with sigma > 0 (there `z` is the data, to within sigma): at sigma = 0 a network
        cannot infer the noise from z, and the first step would put the posterior mean,
        0, in its place.
      sampler: one that draws no noise; `Euler("x")` is DDIM.
      schedule: the one of `denoise_fn`.
      trajectory: as in `run`.

    Returns:
      `Result`, whose `x` is z at the last time.

    Raises:
      ValueError: `times` is no rising grid, the sampler draws noise, or `denoise_fn` is
        singular on the grid (x at sigma = 0), as given or in the type of `z`.

    Source: Song et al. 2020, arXiv 2010.02502, section 4.3, for DDIM.
    """
    if check_sampler(sampler).num_noises:
        raise ValueError(
            f"{sampler} draws noise: to invert, use a deterministic sampler; "
            'Euler("x") is DDIM'
        )
    times = as_grid(times)
    grids.check_grid(times[::-1])
    tableau = getattr(sampler, "tableau", tableaus.EULER)
    evaluated = times if 1 in tableau.c else times[:-1]
    z = as_data(z, "z")
    denoiser = as_denoiser(denoise_fn, like=z, schedule=as_schedule(schedule))
    check_times(denoiser, evaluated, z)
    rows = table(sampler, times, schedule)
    return run(None, denoiser, z, rows, sampler=sampler, trajectory=trajectory)
