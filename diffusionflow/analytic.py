"""Data with exact denoisers: Gaussians and Gaussian mixtures at every noise level.

For data of mean m and variance v, `z ~ N(alpha m, V)`, `V = alpha^2 v + sigma^2`, and

    x_hat = m + alpha v (z - alpha m) / V,    eps_hat = sigma (z - alpha m) / V.

A mixture averages these over the posterior of its components. Neither form divides by
alpha or sigma.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from diffusionflow._dataclass import is_number, is_traced, register
from diffusionflow._numeric import at_least_float32
from diffusionflow.predictions import Denoised, Denoiser, per_event
from diffusionflow.schedules import Schedule, as_schedule


@register
class Mixture:
    """Gaussian mixture, `x ~ sum_k weights_k N(means_k, diag(variances_k))`.

    Args:
      weights: positive, `[K]`; they are normalised.
      means: `[K, *event]`.
      variances: of each coordinate, broadcast to `means`; 0 is a point mass.

    Raises:
      ValueError: a weight is not positive and finite, a variance negative or not
        finite. (Checked in Python numbers and NumPy arrays: `jax.Array`s may be
        gradients.)
    """

    weights: Any
    means: Any
    variances: Any

    def __post_init__(self) -> None:
        if _is_given(self.weights) and np.ndim(self.weights):
            _check_weights(self.weights)
        if _is_given(self.variances):
            _check_variances("variances", self.variances)

    def denoised(self, z: Array, alpha: ArrayLike, sigma: ArrayLike) -> Denoised:
        """Computes the posterior means `E[x | z]` and `E[eps | z]`.

        Args:
          z: `[*batch, *event]`.
          alpha: scalar or `[*batch]`.
          sigma: scalar or `[*batch]`, positive where a variance is 0.

        Returns:
          `Denoised`, of the shape of `z`.
        """
        post = _Posterior.of(self, z, alpha, sigma)
        weights = post.share()
        x = post.means + post.alpha * post.variances * post.offset / post.total
        eps = post.sigma * post.offset / post.total
        return Denoised(jnp.sum(weights * x, axis=0), jnp.sum(weights * eps, axis=0))

    def score(self, z: Array, alpha: ArrayLike, sigma: ArrayLike) -> Array:
        """Computes the score `grad log p(z)`, like `z`; arguments as `denoised`."""
        post = _Posterior.of(self, z, alpha, sigma)
        return -jnp.sum(post.share() * post.offset / post.total, axis=0)

    def log_density(self, z: Array, alpha: ArrayLike, sigma: ArrayLike) -> Array:
        """Computes log-density `log p(z)` in nats, summed over events: `[*batch]`."""
        return jax.nn.logsumexp(
            _Posterior.of(self, z, alpha, sigma).log_joint(), axis=0
        )

    def denoise_fn(self, *, schedule: Schedule) -> "ExactDenoiser":
        """Makes the exact denoiser `(z, t) -> Denoised` on a schedule."""
        return ExactDenoiser(self, as_schedule(schedule))

    def sample(self, key: Array, shape: tuple[int, ...]) -> Array:
        """Draws independent samples, `[*shape, *event]`; `key` is scalar."""
        pick_key, noise_key = jax.random.split(key)
        weights, means, variances = _broadcast(self)
        probabilities = weights / jnp.sum(weights)
        pick = jax.random.choice(pick_key, weights.shape[0], shape, p=probabilities)
        noise = jax.random.normal(noise_key, (*shape, *means.shape[1:]), means.dtype)
        return means[pick] + jnp.sqrt(variances)[pick] * noise


def gaussian(mean: ArrayLike, variance: ArrayLike) -> Mixture:
    """Makes Gaussian data `x ~ N(mean, diag(variance))`, a mixture of one component.

    Args:
      mean: `[*event]`.
      variance: broadcast to `mean`; 0 is a point mass.

    Raises:
      ValueError: a variance that is not traced is negative or not finite.

    Example:
      >>> from diffusionflow import schedules
      >>> flow = schedules.FlowMatching()
      >>> denoise_fn = gaussian(jnp.zeros(2), 0.25).denoise_fn(schedule=flow)
      >>> print(denoise_fn(jnp.ones((1, 2)), 0.5).x)  # alpha v z / V = 2 / 5
      [[0.4 0.4]]
    """
    if not is_traced(variance):
        _check_variances("variance", variance)
    mean = at_least_float32(mean)
    variance = jnp.broadcast_to(at_least_float32(variance), mean.shape)
    return Mixture(jnp.ones((1,), mean.dtype), mean[None], variance[None])


@register
class ExactDenoiser(Denoiser):
    """Exact denoiser of a mixture on a schedule; an evaluation counts 1 in the NFE.

    Args:
      data: any mixture.
      schedule: any.
    """

    data: Mixture
    schedule: Any

    def num_network_calls(self, t: ArrayLike) -> int:
        del t
        return 1

    def denoise(self, z: Array, t: Array) -> Denoised:
        return self.data.denoised(z, self.schedule.alpha(t), self.schedule.sigma(t))


class _Posterior(NamedTuple):
    """Arrays of shape `[K, *batch, *event]`, or broadcasting to it by rank."""

    log_weights: Array  # [K, 1...]
    means: Array
    variances: Array
    alpha: Array
    sigma: Array
    offset: Array  # z - alpha m
    total: Array  # V
    event_ndim: int

    @classmethod
    def of(
        cls, data: Mixture, z: Array, alpha: ArrayLike, sigma: ArrayLike
    ) -> "_Posterior":
        z = at_least_float32(z)
        weights, means, variances = (part.astype(z.dtype) for part in _broadcast(data))
        event_ndim = means.ndim - 1
        batch_axes = (1,) * (z.ndim - event_ndim)
        expand = lambda part: part.reshape(part.shape[:1] + batch_axes + part.shape[1:])
        means, variances = expand(means), expand(variances)
        alpha = per_event(at_least_float32(alpha), z)[None]
        sigma = per_event(at_least_float32(sigma), z)[None]
        log_weights = jnp.log(weights / jnp.sum(weights))
        return cls(
            log_weights.reshape(log_weights.shape + batch_axes),
            means,
            variances,
            alpha,
            sigma,
            z[None] - alpha * means,
            alpha**2 * variances + sigma**2,
            event_ndim,
        )

    def log_joint(self) -> Array:
        """Computes `log (weights_k N(z; alpha m_k, V_k))`, `[K, *batch]`."""
        log_normal = (
            -(self.offset**2 / self.total + jnp.log(2 * jnp.pi * self.total)) / 2
        )
        event = tuple(range(log_normal.ndim - self.event_ndim, log_normal.ndim))
        return self.log_weights + jnp.sum(log_normal, axis=event)

    def share(self) -> Array:
        """Computes the components' posterior probabilities, `[K, *batch, 1...]`."""
        joint = self.log_joint()
        posterior = jax.nn.softmax(joint, axis=0)
        return posterior.reshape(joint.shape + (1,) * self.event_ndim)


def _is_given(value: Any) -> bool:
    """Returns whether all of `value` is Python numbers or NumPy arrays of numbers."""
    return all(
        is_number(leaf)
        or (isinstance(leaf, np.ndarray) and np.issubdtype(leaf.dtype, np.number))
        for leaf in jax.tree.leaves(value)
    )


def _check_weights(weights: Any) -> None:
    values = np.asarray(weights, np.float64)
    bad = ~((values > 0) & (values < np.inf))
    if bad.any():
        raise ValueError(
            f"weights with {values[bad][0]}: each must be positive and finite; leave a "
            "component without weight out"
        )


def _check_variances(name: str, variances: Any) -> None:
    values = np.asarray(variances, np.float64)
    bad = ~((values >= 0) & (values < np.inf))
    if bad.any():
        raise ValueError(
            f"{name} with {values[bad][0]}: each must be at least 0 and finite; 0 is a "
            "point mass; square a standard deviation"
        )


def _broadcast(data: Mixture) -> tuple[Array, Array, Array]:
    means = at_least_float32(data.means)
    variances = jnp.broadcast_to(at_least_float32(data.variances), means.shape)
    return at_least_float32(data.weights), means, variances
