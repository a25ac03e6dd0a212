"""Computes what reflow makes of a mixture in one dimension, where all of it is exact.

The flow of independent pairs carries quantiles of the noise to those of the data, on
bent paths. Any number of Euler steps on a uniform grid is a rising map g of the noise,
because `u = (z - E[x|z]) / t` has a slope of at most 1 / t. So the lines between the
noise and g of it never cross: they are the reflowed flow, and one Euler step of it is
exact. It ends where the steps of the pairs ended.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from scipy import stats

from diffusionflow import analytic, grids, metrics, register, samplers, schedules
from diffusionflow.predictions import Denoised, DenoiseFn, Denoiser
from experiments.analysis import sampler_error

NUM_STARTS = 1001
REFLOWS = 2
FLOW = schedules.FlowMatching()


class Model(NamedTuple):
    """A flow in one dimension, at quantiles of the noise.

    Fields:
      denoise_fn: exact.
      times: falling from 1 to 0, `[num_times]`.
      paths: of the flow, at `times`, `[num_times, num_starts]`, NumPy float64.
    """

    denoise_fn: DenoiseFn
    times: np.ndarray
    paths: np.ndarray

    @property
    def straightness(self) -> float:
        """Computes the mean of `metrics.straightness` over the paths."""
        paths = self.paths[..., None]
        return float(np.mean(metrics.straightness(paths, self.times)))


def noise() -> np.ndarray:
    """Returns quantiles of the noise, `[NUM_STARTS]`."""
    return stats.norm.ppf((np.arange(NUM_STARTS) + 0.5) / NUM_STARTS)


def before(data: analytic.Mixture, *, num_times: int = 257) -> Model:
    """Makes the flow of independent pairs: the quantiles of the noised data.

    Args:
      data: a mixture in one dimension, weights of sum 1.
      num_times: of the paths.
    """
    times = grids.uniform(num_times - 1)
    paths = [noise()]
    for t in times[1:]:
        means, variances = (1 - t) * data.means, (1 - t) ** 2 * data.variances + t**2
        noised = analytic.Mixture(data.weights, means, variances)
        paths.append(sampler_error.quantiles(noised, NUM_STARTS))
    return Model(data.denoise_fn(schedule=FLOW), times, np.stack(paths))


@register
class Lines(Denoiser):
    """Exact denoiser of the lines between noise and x, which both rise.

    Args:
      noise: `[num_lines]`.
      x: samples that do not fall, like `noise`.
    """

    noise: Any
    x: Any

    def denoise(self, z: Array, t: Array) -> Denoised:
        rate = self.noise - self.x
        at = lambda z, t: jnp.interp(z, (1 - t) * self.x + t * self.noise, rate)
        u = at(z, t) if t.ndim == 0 else jax.vmap(at)(z, t)
        return Denoised(z - t * u, z + (1 - t) * u)


def reflowed(x: np.ndarray) -> Model:
    """Makes the flow of pairs of `noise()` and x, which does not fall."""
    start = noise()
    return Model(Lines(start, x), np.array([1.0, 0.0]), np.stack([start, x]))


def euler(model: Model, num_steps: int) -> np.ndarray:
    """Computes paths of Euler's method in u, which is DDIM on flow matching.

    Args:
      model: whose flow it follows.
      num_steps: on a uniform grid.

    Returns:
      `[num_steps + 1, NUM_STARTS]`, NumPy float64.
    """
    with jax.enable_x64(True):
        states = _sampled(model.denoise_fn, noise(), grids.uniform(num_steps))
        return np.asarray(states[: num_steps + 1])  # the last is the sample once more


@jax.jit
def _sampled(denoise_fn: DenoiseFn, z: Array, times: Array) -> Array:
    result = samplers.sample(
        jax.random.key(0),
        denoise_fn,
        z,
        times,
        sampler=samplers.ddim(),
        schedule=FLOW,
        trajectory=True,
    )
    return result.trajectory


def reflow(first: Model, num_steps: int | None) -> list[Model]:
    """Makes the flow before reflow, after one and after two.

    Args:
      first: the flow before.
      num_steps: Euler steps by which a model draws its pairs; None for its exact flow.

    Returns:
      `REFLOWS + 1` models.
    """
    models = [first]
    for _ in range(REFLOWS):
        last = models[-1]
        x = last.paths[-1] if num_steps is None else euler(last, num_steps)[-1]
        models.append(reflowed(x))
    return models


def distance(x: np.ndarray, exact: np.ndarray) -> float:
    """Computes the Wasserstein-2 distance of as many samples, both in rising order."""
    return float(np.sqrt(np.mean((x - exact) ** 2)))
