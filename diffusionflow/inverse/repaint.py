"""RePaint: inpainting by known pixels with noise, and jumps back in time."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from diffusionflow import _xp as xp
from diffusionflow._dataclass import check_count, register, static
from diffusionflow._numeric import root
from diffusionflow.predictions import DenoiseFn, as_data
from diffusionflow.samplers.churn import Row, step_ratio
from diffusionflow.schedules import Schedule

MOST = 100_000  # of the times that a step is made, and of the steps of a jump


@register
class RePaint:
    """Sampler that inpaints: DDPM's steps, and known pixels at the level of each.

        z_s = alpha_s x + sigma_s xi    where x is known,    DDPM's step elsewhere.

    Known and unknown pixels of z_s do not fit together, since the unknown ones do not
    see the noise of the known ones. So every `jump` steps, noise brings z back by as
    many steps, and they are made again, until they were made `resamplings` times.
    `resamplings = 1` is plain replacement. In the limit of many resamplings of short
    jumps at every level the samples are conditional ones.

    The samples have the known pixels exactly if the grid ends at sigma = 0. It is for
    pixels known without noise.

    Args:
      x: the known data, which broadcasts to z; unknown pixels must be finite.
      mask: bools, True where known, which broadcasts likewise.
      resamplings: how often steps are made, 10 in the source.
      jump: steps of a jump, 10 in the source; of fewer steps there are no jumps.

    Raises:
      ValueError: `mask` is not of bools, or a number is not whole or below 1; in `run`,
        `x` is of integers, as images are on disk.

    Source: Lugmayr et al. 2022, arXiv 2201.09865, algorithm 1, with the order of its
    published code; the noise of a jump is drawn in one, which has the same law.

    Example: 4 steps, of which the last two are made twice.
      >>> import jax
      >>> from diffusionflow import analytic, grids, samplers, schedules
      >>> flow = schedules.FlowMatching()
      >>> denoise_fn = analytic.gaussian(jnp.zeros(2), 1.0).denoise_fn(schedule=flow)
      >>> sampler = RePaint(
      ...     jnp.array([0.7, 0.0]), jnp.array([True, False]), resamplings=2, jump=2
      ... )
      >>> result = samplers.sample(
      ...     jax.random.key(0), denoise_fn, jnp.ones((1, 2)), grids.uniform(4),
      ...     sampler=sampler, schedule=flow,
      ... )
      >>> print(result.x[0, 0], result.nfe)
      0.7 6
    """

    x: Any
    mask: Any
    resamplings: int = static(default=10)
    jump: int = static(default=10)

    num_noises = 3

    def __post_init__(self) -> None:
        for name in ("resamplings", "jump"):
            number = getattr(self, name)
            check_count(name, number, most=MOST)
        dtype = getattr(self.mask, "dtype", None)
        if dtype is None and isinstance(self.mask, (list, tuple, int, float)):
            dtype = np.asarray(self.mask).dtype
        if dtype is not None and not jnp.issubdtype(dtype, jnp.bool_):
            raise ValueError(
                f"mask has dtype {dtype}: must be bool, True where x is known; write "
                "mask > 0"
            )

    @xp.quiet
    def plan(self, t: Array, s: Array, schedule: Schedule) -> Row:
        at, back = _moves(t.shape[0], self.resamplings, self.jump)
        times = xp.concatenate([t, s[-1:]])
        t, s, up = times[at], times[at + 1], times[back]
        alpha, sigma, q = (
            schedule.alpha(s),
            schedule.sigma(s),
            step_ratio(t, s, schedule),
        )
        jumps = back <= at
        ratio = schedule.alpha(up) / alpha
        middle = (t + s) / 2  # placeholder where there is no jump
        raised, end = xp.where(jumps, up, t), xp.where(jumps, s, middle)
        q_up = step_ratio(raised, end, schedule)
        noise = schedule.sigma(up) * root((1 - q_up) * (1 + q_up))
        return dict(
            t=t,
            x=alpha,
            eps=sigma * q,
            noise=sigma * root((1 - q) * (1 + q)),
            known=alpha,
            known_noise=sigma,
            raise_z=xp.where(jumps, ratio, 1),
            raise_noise=xp.where(jumps, noise, 0),
        )

    def init(self, z: Array) -> Array:
        return z

    def step(self, z: Array, row: Row, noise: Array, denoise_fn: DenoiseFn) -> Array:
        denoised = denoise_fn(z, row["t"])
        kept = row["x"] * denoised.x + row["eps"] * denoised.eps
        x = as_data(self.x, "x").astype(z.dtype)
        known = row["known"] * jnp.broadcast_to(x, z.shape)
        z = jnp.where(
            jnp.broadcast_to(jnp.asarray(self.mask), z.shape),
            known + row["known_noise"] * noise[1],
            kept + row["noise"] * noise[0],
        )
        return row["raise_z"] * z + row["raise_noise"] * noise[2]

    def output(self, z: Array) -> Array:
        return z


def _moves(
    num_steps: int, resamplings: int, jump: int
) -> tuple[np.ndarray, np.ndarray]:
    """Plans the step that each move makes, and the time that noise takes it back to.

    Steps and times are counted from the noise end; step i goes from time i to i + 1,
    and a move that is not raised ends there.
    """
    left = {rest: resamplings - 1 for rest in range(0, num_steps - jump, jump)}
    rest, at, back = num_steps, [], []
    while rest > 0:
        at.append(num_steps - rest)
        rest -= 1
        if left.get(rest, 0):
            left[rest] -= 1
            rest += jump
        back.append(num_steps - rest)
    return np.array(at), np.array(back)
