"""Exact posteriors of Gaussian mixtures, against which methods are measured.

Of `x ~ sum_k w_k N(m_k, V_k)` and `y = A x + std n` the posterior is a mixture again,

    S_k = A V_k A^T + std^2 I,           m'_k = m_k + V_k A^T S_k^-1 (y - A m_k),
    V'_k = V_k - V_k A^T S_k^-1 A V_k,   w'_k ~ w_k N(y; A m_k, S_k),

and so has exact denoisers at every noise level.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from diffusionflow._dataclass import register
from diffusionflow._numeric import at_least_float32
from diffusionflow.analytic import ExactDenoiser, Mixture
from diffusionflow.inverse.operators import Measurement
from diffusionflow.predictions import Denoised, per_event
from diffusionflow.predictions.checks import check_float
from diffusionflow.schedules import Schedule, as_schedule


@register
class CorrelatedMixture:
    """Gaussian mixture with full covariances `Q_k diag(variances_k) Q_k^T`.

    Args:
      weights: `[K]`, which add up to 1.
      means: `[K, *event]`.
      axes: Q, orthogonal, `[K, features, features]` of the flattened event; columns are
        the principal axes.
      variances: along them, `[K, features]`.
    """

    weights: Any
    means: Any
    axes: Any
    variances: Any

    def denoised(self, z: Array, alpha: ArrayLike, sigma: ArrayLike) -> Denoised:
        """Computes the posterior means `E[x | z]` and `E[eps | z]`.

        Args:
          z: `[*batch, *event]`.
          alpha: scalar or `[*batch]`.
          sigma: scalar or `[*batch]`, positive where a variance is 0.
        """
        z = at_least_float32(z)
        weights, means, axes, variances = (
            at_least_float32(part).astype(z.dtype) for part in self._parts(jnp)
        )
        flat = z.reshape(*z.shape[: z.ndim - np.ndim(self.means) + 1], -1)
        alpha, sigma = (
            per_event(at_least_float32(level), flat) for level in (alpha, sigma)
        )

        lift = lambda row: row.reshape((1,) * (flat.ndim - 1) + row.shape)

        def component(log_weight: Array, mean: Array, axes: Array, v: Array) -> Any:
            mean, v = lift(mean), lift(v)
            offset = _product(flat - alpha * mean, axes)
            total = alpha**2 * v + sigma**2
            log_joint = log_weight - jnp.sum(offset**2 / total + jnp.log(total), -1) / 2
            x = mean + _product(alpha * v * offset / total, axes.T)
            return log_joint, x, _product(sigma * offset / total, axes.T)

        log_joint, *values = jax.vmap(component)(
            jnp.log(weights), means, axes, variances
        )
        share = jax.nn.softmax(log_joint, axis=0)[..., None]
        return Denoised(*(jnp.sum(share * v, 0).reshape(z.shape) for v in values))

    def denoise_fn(self, *, schedule: Schedule) -> ExactDenoiser:
        """Makes the exact denoiser `(z, t) -> Denoised` on a schedule."""
        data: Any = self
        return ExactDenoiser(data, as_schedule(schedule))

    def mean(self) -> np.ndarray:
        """Computes the mean, `[features]` of the flattened event, float64."""
        weights, means, _, _ = self._parts(np)
        return weights @ means

    def covariance(self) -> np.ndarray:
        """Computes the covariance, `[features, features]`, float64."""
        weights, means, axes, variances = self._parts(np)
        offsets = means - weights @ means
        inner = np.einsum("k,kij,kj,klj->il", weights, axes, variances, axes)
        return inner + (weights * offsets.T) @ offsets

    def sample(self, key: Array, shape: tuple[int, ...]) -> Array:
        """Draws independent samples, `[*shape, *event]`; `key` is scalar."""
        pick_key, noise_key = jax.random.split(key)
        weights, means, axes, variances = map(at_least_float32, self._parts(jnp))
        pick = jax.random.choice(pick_key, weights.shape[0], shape, p=weights)
        noise = jax.random.normal(noise_key, (*shape, means.shape[1]), means.dtype)
        scaled = jnp.sqrt(variances)[pick] * noise
        x = means[pick] + jnp.einsum(
            "...ij,...j->...i", axes[pick], scaled, precision=jax.lax.Precision.HIGHEST
        )
        return x.reshape(*shape, *np.shape(self.means)[1:])

    def _parts(self, xp: Any) -> tuple[Any, Any, Any, Any]:
        """Converts the fields to arrays of NumPy or JAX, the event flattened."""
        parts = (self.weights, self.means, self.axes, self.variances)
        weights, means, axes, variances = (xp.asarray(part, float) for part in parts)
        return weights, means.reshape(len(weights), -1), axes, variances


def _product(a: Array, b: Array) -> Array:
    """Computes a matrix product without the rounding of accelerators."""
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)


def posterior(data: Mixture, measurement: Measurement) -> CorrelatedMixture:
    """Computes the law of x given y, in NumPy float64.

    Args:
      data: the prior, a Gaussian or a mixture, of concrete numbers.
      measurement: with y `[*output]`; std may be 0 where `A V A^T` is invertible.

    Returns:
      `CorrelatedMixture`, with `mean`, `covariance`, `sample` and `denoise_fn`.

    Raises:
      ValueError: y is of integers or has another shape.

    Example: half of a Gaussian is measured.
      >>> from diffusionflow import analytic
      >>> from diffusionflow.inverse import operators
      >>> data = analytic.gaussian(jnp.zeros(2), 1.0)
      >>> operator = operators.masking(jnp.array([True, False]))
      >>> law = posterior(data, Measurement(operator, jnp.array([2.0, 0.0]), 1.0))
      >>> law.mean().tolist(), law.covariance().round(6).tolist()
      ([1.0, 0.0], [[0.5, 0.0], [0.0, 1.0]])
    """
    matrix = np.asarray(measurement.operator.matrix(), float)
    check_float("y", measurement.y, "scale it as the data are scaled")
    shape = measurement.operator.output_shape
    if np.shape(measurement.y) != shape:
        raise ValueError(f"y of shape {np.shape(measurement.y)}: must be {shape}")
    y = np.asarray(measurement.y, float).reshape(-1)
    if measurement.operator.measured is not None:
        used = np.asarray(measurement.operator.measured).reshape(-1)
        matrix, y = matrix[used], y[used]
    weights, means = (np.asarray(part, float) for part in (data.weights, data.means))
    variances = np.broadcast_to(np.asarray(data.variances, float), means.shape)
    flat = lambda part: part.reshape(len(weights), -1)
    logs, parts = [], []
    for weight, mean, v in zip(weights, flat(means), flat(variances), strict=True):
        total = (matrix * v) @ matrix.T + float(measurement.std) ** 2 * np.eye(len(y))
        residual = y - matrix @ mean
        gain = np.linalg.solve(total, matrix * v).T
        fit = residual @ np.linalg.solve(total, residual) + np.linalg.slogdet(total)[1]
        logs.append(np.log(weight) - fit / 2)
        covariance = np.diag(v) - gain @ (matrix * v)
        eigenvalues, axes = np.linalg.eigh((covariance + covariance.T) / 2)
        parts.append((mean + gain @ residual, axes, np.maximum(eigenvalues, 0)))
    shares = np.exp(np.array(logs) - max(logs))
    new_means, axes, eigenvalues = map(np.stack, zip(*parts, strict=True))
    return CorrelatedMixture(
        shares / shares.sum(), new_means.reshape(means.shape), axes, eigenvalues
    )
