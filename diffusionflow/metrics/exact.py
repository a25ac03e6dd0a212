"""Errors of samples against an exactly known law or solution."""

from typing import Any

import numpy as np

from diffusionflow._dataclass import register
from diffusionflow.analytic import Mixture
from diffusionflow.metrics.base import Metric, namespace
from diffusionflow.metrics.frechet import FeatureMoments, weighted_moments


def law_moments(law: Mixture) -> FeatureMoments:
    """Computes mean and covariance of a Gaussian or mixture, its event flattened.

    `m = sum_k w_k m_k`, `C = sum_k w_k (diag(v_k) + (m_k - m)(m_k - m)^T)`.

    Args:
      law: a mixture.
    """
    weights, means, variances = _components(law)
    mean = weights @ means
    offsets = means - mean
    return FeatureMoments(
        mean, np.diag(weights @ variances) + (weights * offsets.T) @ offsets
    )


@register
class LawCDF:
    """CDF of a law on the line, `sum_k w_k Phi((x - m_k)/s_k)`.

    Args:
      law: a Gaussian or a mixture whose event is one number.

    Raises:
      ValueError: when called, where the event has more numbers or a variance is 0.
    """

    law: Mixture

    def __call__(self, x: np.ndarray) -> np.ndarray:
        from scipy.special import ndtr  # comes with jax

        weights, means, variances = _components(self.law)
        if means.shape[1] != 1:
            raise ValueError(
                f"a law of {means.shape[1]} numbers: must be one-dimensional"
            )
        if not (variances > 0).all():
            raise ValueError(f"variances={variances[:, 0]}: must be positive")
        return ndtr((x[..., None] - means[:, 0]) / np.sqrt(variances[:, 0])) @ weights


def _components(law: Mixture) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    weights, means, variances = (np.asarray(part, np.float64) for part in _parts(law))
    flat = lambda part: part.reshape(len(weights), -1)
    variances = np.broadcast_to(variances, means.shape)
    return weights / weights.sum(), flat(means), flat(variances)


def _parts(law: Mixture) -> tuple[Any, Any, Any]:
    return law.weights, law.means, law.variances


@register
class MeanError(Metric):
    """Error of the mean, `|mean of x - mean|`, Euclidean.

    Its expectation is not 0 for exact samples but about `sqrt(tr(covariance) / n)`.

    Args:
      mean: of the law, `[features]`.
    """

    num_sets = 1

    mean: Any

    def values(
        self, samples: tuple[np.ndarray, ...], counts: tuple[np.ndarray, ...]
    ) -> np.ndarray:
        """Computes the error of the mean of every resample."""
        (x,), (count,) = samples, counts
        means = count @ x / count.sum(1, keepdims=True)
        return np.linalg.norm(means - np.asarray(self.mean, np.float64), axis=1)


@register
class CovarianceError(Metric):
    """Error of the unbiased covariance, `|covariance of x - covariance|`, Frobenius.

    Args:
      covariance: of the law, `[features, features]`.
    """

    num_sets = 1

    covariance: Any

    def values(
        self, samples: tuple[np.ndarray, ...], counts: tuple[np.ndarray, ...]
    ) -> np.ndarray:
        """Computes the error of the covariance of every resample."""
        (x,), (count,) = samples, counts
        exact = np.asarray(self.covariance, np.float64)
        error = lambda each: weighted_moments(x, each).covariance - exact
        return np.array([np.linalg.norm(error(each)) for each in count])


@register
class Kolmogorov(Metric):
    """Kolmogorov-Smirnov `sup_x |F_n(x) - F(x)|` of samples `[n]` or `[n, 1]`.

    Args:
      cdf_fn: F, of an array of any shape, such as `LawCDF(law)`.
    """

    num_sets = 1

    cdf_fn: Any

    def values(
        self, samples: tuple[np.ndarray, ...], counts: tuple[np.ndarray, ...]
    ) -> np.ndarray:
        """Computes the Kolmogorov-Smirnov distance of every resample."""
        (x,), (count,) = samples, counts
        _check_one_number(x)
        order = np.argsort(x[:, 0])
        exact = np.asarray(self.cdf_fn(x[order, 0]), np.float64)
        after = np.cumsum(count[:, order], axis=1) / count.sum(1, keepdims=True)
        before = np.pad(after, ((0, 0), (1, 0)))[:, :-1]
        return np.maximum((after - exact).max(1), (exact - before).max(1))


@register
class RMSError(Metric):
    """RMSE per coordinate, `sqrt(mean |x_i - y_i|^2)`: row i of the sets are a pair.

    Such as samples of few steps and the exact solution from the same noise.
    """

    paired = True

    def values(
        self, samples: tuple[np.ndarray, ...], counts: tuple[np.ndarray, ...]
    ) -> np.ndarray:
        """Computes the RMSE of every resample."""
        x, y = samples
        xp = namespace(x, y)
        return xp.sqrt(_weighted_mean(((x - y) ** 2).mean(1), counts[0]))


@register
class Mean(Metric):
    """Mean of one number of each row, `[n]`: a loss, nats, straightness."""

    num_sets = 1

    def values(
        self, samples: tuple[np.ndarray, ...], counts: tuple[np.ndarray, ...]
    ) -> np.ndarray:
        """Computes the mean of every resample."""
        (x,), (count,) = samples, counts
        _check_one_number(x)
        return _weighted_mean(x[:, 0], count)


def _weighted_mean(x: np.ndarray, counts: np.ndarray) -> np.ndarray:
    return (counts / counts.sum(1, keepdims=True)).astype(x.dtype) @ x


def _check_one_number(x: np.ndarray) -> None:
    if x.shape[1] != 1:
        raise ValueError(
            f"rows of {x.shape[1]} numbers: must be one number each, [n] or [n, 1]"
        )
