"""Straightness of trajectories: `result.trajectory` of a sampler, for each example.

Both numbers depend on the coordinates. A path that is straight on the flow-matching
schedule is bent on a variance-preserving one, though the ODE is the same:
`in_flow_coordinates` takes a path of any schedule to that of flow matching, where
methods can be compared. `Mean` of the results has the error bars.
"""

from typing import Any

import numpy as np
from jax import Array
from jax.typing import ArrayLike

from diffusionflow._dataclass import check_batch_ndim, is_traced
from diffusionflow._numeric import in_float64
from diffusionflow.metrics.base import namespace
from diffusionflow.schedules import Schedule


def straightness(trajectory: Array, times: ArrayLike, *, batch_ndim: int = 1) -> Array:
    """Computes `int |(z_1 - z_0) - dz/dt|^2 dt`: 0 for a straight, even path.

    The path is taken as linear between its states, and its chord as
    `(z_end - z_start) / (t_end - t_start)` where it does not span [0, 1]. So at a
    finite number of steps it is a little too small, by O(1 / num_steps^2) on a uniform
    grid; of a one-step path it is 0.

    Args:
      trajectory: `[num_states, *batch, *event]`.
      times: of the states, `[num_states]`, falling or rising.
      batch_ndim: number of batch axes, static.

    Returns:
      `[*batch]`, summed over the event.

    Raises:
      ValueError: shapes do not fit, or times neither fall nor rise throughout.

    Source: Liu et al., Flow Straight and Fast, arXiv:2209.03003, S(Z).
    """
    z, at, xp = _prepared(trajectory, times, batch_ndim)
    steps = at[1:] - at[:-1]
    chord = (z[-1] - z[0]) / (at[-1] - at[0])
    slopes = (z[1:] - z[:-1]) / steps.reshape(-1, *(1,) * (z.ndim - 1))
    squared = ((slopes - chord[None]) ** 2).sum(-1)
    return xp.tensordot(xp.abs(steps), squared, axes=1)


def curvature(trajectory: Array, *, batch_ndim: int = 1) -> Array:
    """Computes the length of each path over that of its chord: 1 if straight.

    `sum_i |z_(i+1) - z_i| / |z_end - z_start|`, whatever the pace along the path.
    Infinite where a path ends at its start, NaN where it never leaves it.

    Args:
      trajectory: `[num_states, *batch, *event]`.
      batch_ndim: number of batch axes, static.

    Returns:
      `[*batch]`, 1 or more.
    """
    times = np.arange(len(trajectory))
    z, _, xp = _prepared(trajectory, times, batch_ndim)
    norm = lambda offset: xp.sqrt((offset**2).sum(-1))
    with np.errstate(divide="ignore", invalid="ignore"):
        return norm(z[1:] - z[:-1]).sum(0) / norm(z[-1] - z[0])


def in_flow_coordinates(
    trajectory: Array, times: ArrayLike, *, schedule: Schedule
) -> tuple[Array, Array]:
    """Converts a path of any schedule to one of flow matching.

    `z / (alpha + sigma)` at time `sigma / (alpha + sigma)`: data and noise have there
    the weights `1 - t` and `t`, so the log-SNR and what a denoiser sees are the same.

    Args:
      trajectory: `[num_states, *batch, *event]`.
      times: of the states, `[num_states]`.
      schedule: of the trajectory.

    Returns:
      `(trajectory, times)` of the same shapes.
    """
    level = lambda schedule, t: (schedule.alpha(t), schedule.sigma(t))
    alpha, sigma = in_float64(level, schedule, times)
    xp = namespace(trajectory, alpha)
    z = trajectory if xp is not np else np.asarray(trajectory, np.float64)
    scale = xp.asarray(alpha + sigma).astype(z.dtype)
    scale = scale.reshape(-1, *(1,) * (z.ndim - 1))
    return z / scale, sigma / (alpha + sigma)


def _prepared(trajectory: Array, times: Any, batch_ndim: int) -> Any:
    """Prepares a trajectory `[num_states, *batch, features]`, times, and namespace."""
    xp = namespace(trajectory, times)
    dtype = trajectory.dtype if xp is not np else np.float64
    z = xp.asarray(trajectory).astype(dtype)
    times = xp.asarray(times).astype(dtype)
    check_batch_ndim(batch_ndim, z.ndim - 1)
    if z.ndim < batch_ndim + 1 or len(z) < 2 or times.shape != z.shape[:1]:
        raise ValueError(
            f"trajectory of shape {z.shape} at times of shape {times.shape}, "
            f"batch_ndim={batch_ndim}: must be [num_states, *batch, *event] with a "
            "time for each of two states or more; a sampler's step to the data adds a "
            "state"
        )
    steps = np.zeros(0) if is_traced(times) else np.diff(times)
    if not ((steps > 0).all() or (steps < 0).all()):
        raise ValueError(f"times={times}: must fall or rise, each step of them")
    return z.reshape(*z.shape[: batch_ndim + 1], -1), times, xp
