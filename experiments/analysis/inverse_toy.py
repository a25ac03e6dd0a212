"""Samples a toy inverse problem: the first of two coordinates is measured, with noise.

The data are a mixture, so that the posterior is known.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from diffusionflow import analytic, grids, inverse, samplers, schedules
from experiments.analysis import sampler_error

SCHEDULE = schedules.FlowMatching()
T_MAX = 0.995  # a likelihood of z needs some data in it
NUM_STEPS = 100
NUM_SAMPLES = 2_000
# name: the denoiser of the posterior, and what an evaluation counts in the NFE
METHODS: dict[str, tuple[Callable[..., Any], int]] = {
    "DPS: as if x_hat were the data": (inverse.dps, 2),
    "PiGDM: x given z of one variance": (inverse.pigdm, 2),
    "MMPS: x given z of its own covariance": (
        functools.partial(inverse.mmps, num_iterations=1),
        3,
    ),
}


class Posterior(NamedTuple):
    """Exact posterior of the data given a measurement.

    Fields:
      hidden: of the coordinate that is not measured, a mixture of events of shape ().
      x: samples, `[NUM_SAMPLES, 2]`.
    """

    hidden: analytic.Mixture
    x: np.ndarray


def prior() -> analytic.Mixture:
    """Makes a mixture of four modes in two dimensions."""
    means = np.array([[-1.2, -1.0], [-0.6, 1.1], [0.6, -0.4], [1.3, 1.0]])
    weights = np.array([0.3, 0.25, 0.25, 0.2])
    return analytic.Mixture(weights, means, np.full((4, 2), 0.3**2))


def measurement(y: ArrayLike, std: ArrayLike) -> inverse.Measurement:
    """Measures the first coordinate.

    Args:
      y: what was measured, scalar.
      std: of the noise.
    """
    both = jnp.stack([jnp.asarray(y, jnp.float32), jnp.zeros((), jnp.float32)])
    return inverse.Measurement(inverse.masking(np.array([True, False])), both, std)


def posterior(y: float, std: float) -> Posterior:
    """Computes the law of the data given a measurement, and samples it."""
    found = inverse.posterior(prior(), measurement(y, std))
    spread = np.asarray(found.axes)[:, 1] ** 2 * np.asarray(found.variances)
    means = np.asarray(found.means, np.float64)[:, 1]
    weights = np.asarray(found.weights, np.float64)
    hidden = analytic.Mixture(weights / weights.sum(), means, spread.sum(1))
    return Posterior(
        hidden, np.asarray(found.sample(jax.random.key(1), (NUM_SAMPLES,)))
    )


def samples(method: str, y: float, std: float) -> np.ndarray:
    """Samples x given a measurement by an approximate method.

    Args:
      method: one of `METHODS`.
      y: what was measured.
      std: of the noise, positive.

    Returns:
      `[NUM_SAMPLES, 2]`, from the same noise for every method and measurement.
    """
    return np.asarray(_run(method, jnp.float32(y), jnp.float32(std)))


def nfe(method: str) -> int:
    """Counts the function evaluations of a sample."""
    return NUM_STEPS * METHODS[method][1]


def distance(x: np.ndarray, exact: Posterior) -> float:
    """Computes the Wasserstein-2 distance of samples of the hidden coordinate."""
    wanted = sampler_error.quantiles(exact.hidden, len(x))
    return float(np.sqrt(np.mean((np.sort(x[:, 1]) - wanted) ** 2)))


@functools.partial(jax.jit, static_argnums=0)
def _run(method: str, y: Array, std: Array) -> Array:
    make, _ = METHODS[method]
    denoise_fn = make(
        prior().denoise_fn(schedule=SCHEDULE), measurement(y, std), schedule=SCHEDULE
    )
    z = samplers.prior(jax.random.key(0), (NUM_SAMPLES, 2), schedule=SCHEDULE, t=T_MAX)
    times = grids.uniform(NUM_STEPS, t_max=T_MAX)
    sampler = samplers.Euler("u")
    return samplers.sample(
        None, denoise_fn, z, times, sampler=sampler, schedule=SCHEDULE
    ).x
