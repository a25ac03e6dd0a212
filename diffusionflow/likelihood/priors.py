"""Priors at the noisy end, by name: log density and KL divergence."""

import math
from collections.abc import Callable

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from diffusionflow import losses
from diffusionflow._dataclass import check_name
from diffusionflow._numeric import in_float64
from diffusionflow.schedules import Schedule

PRIORS = ("standard", "unit")  # N(0, sigma^2 I) of the schedule, and N(0, I)

LogPrior = Callable[[Array], Array]


def log_density(
    prior: str | LogPrior, z: Array, schedule: Schedule, t: ArrayLike, batch_ndim: int
) -> Array:
    """Computes `log p(z)` of a named or given prior, nats, `[*batch]`."""
    if callable(prior):
        return jnp.asarray(prior(z), z.dtype)
    check_name("prior", prior, PRIORS)
    std = jnp.ones((), z.dtype)
    if prior == "standard":
        sigma = in_float64(lambda on, t: on.sigma(t), schedule, t)
        std = jnp.asarray(sigma, z.dtype)
    event = tuple(range(batch_ndim, z.ndim))
    twice = (z / std) ** 2 + 2 * jnp.log(std) + math.log(2 * math.pi)
    return -jnp.sum(twice, axis=event) / 2


def divergence(
    prior: str, x: Array, schedule: Schedule, t: ArrayLike, batch_ndim: int
) -> Array:
    """Computes `KL(q(z_t | x) || p(z_t))` of a named prior, nats, `[*batch]`."""
    check_name("prior", prior, PRIORS)
    size = math.prod(x.shape[batch_ndim:])
    if prior == "unit":
        return size * losses.prior_kl(x, schedule=schedule, t=t, batch_ndim=batch_ndim)
    snr = in_float64(lambda on, t: (on.alpha(t) / on.sigma(t)) ** 2, schedule, t)
    square = jnp.sum(x**2, axis=tuple(range(batch_ndim, x.ndim)))
    return jnp.asarray(snr, x.dtype) * square / 2
