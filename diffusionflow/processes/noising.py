"""The forward (noising) process in one step."""

from jax import Array
from jax.typing import ArrayLike

from diffusionflow.predictions import as_input, check_same_shape, per_event
from diffusionflow.schedules import Schedule, as_schedule


def add_noise(x: Array, eps: Array, t: ArrayLike, *, schedule: Schedule) -> Array:
    """Adds noise to data: `z_t = alpha_t x + sigma_t eps`.

    Args:
      x: data, `[*batch, *event]`.
      eps: noise like `x`, usually standard normal.
      t: times in [0, 1], scalar or `[*batch]`.
      schedule: any.

    Returns:
      z, like `x`, float32 or wider.

    Raises:
      ValueError: `x` is of integers, `eps` has another shape, `t` is of integers, does
        not begin the shape of `x`, or leaves [0, 1] (traced times give NaN there), or
        `schedule` is not a schedule.

    Example:
      >>> import jax.numpy as jnp
      >>> from diffusionflow import processes, schedules
      >>> x, eps = jnp.ones((2, 3)), jnp.zeros((2, 3))
      >>> t = jnp.array([0.25, 0.75])
      >>> print(processes.add_noise(x, eps, t, schedule=schedules.FlowMatching())[:, 0])
      [0.75 0.25]
    """
    as_schedule(schedule)
    x, t = as_input(x, t, "x")
    check_same_shape("eps", eps, "x", x)
    return noised(x, eps, t, schedule)


def noised(x: Array, eps: Array, t: Array, schedule: Schedule) -> Array:
    """Adds noise like `add_noise`, without the checks of its arguments."""
    alpha, sigma = (
        per_event(level(t), x) for level in (schedule.alpha, schedule.sigma)
    )
    return alpha * x + sigma * eps.astype(x.dtype)
