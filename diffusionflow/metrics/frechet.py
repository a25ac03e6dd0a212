"""Frechet distance between the Gaussians of two sets, and its limit of large sets.

    d^2 = |m_a - m_b|^2 + tr(A + B - 2 (A^(1/2) B A^(1/2))^(1/2))

With the features of Inception it is the FID. It is biased upwards by O(1/n).
"""

from typing import Any, NamedTuple

import numpy as np
from jax import Array
from jax.typing import ArrayLike

from diffusionflow import random
from diffusionflow._dataclass import register, static
from diffusionflow.metrics.base import Metric, rows, shuffled


class FeatureMoments(NamedTuple):
    """The first two moments of features, float64.

    Fields:
      mean: `[features]`.
      covariance: `[features, features]`.
    """

    mean: np.ndarray
    covariance: np.ndarray


def moments(x: ArrayLike) -> FeatureMoments:
    """Computes mean and unbiased covariance of samples.

    Args:
      x: `[n, *event]`.

    Raises:
      ValueError: fewer than two rows.
    """
    (flat,) = rows(x)
    return weighted_moments(flat, np.ones(len(flat), np.int64))


def weighted_moments(x: np.ndarray, counts: np.ndarray) -> FeatureMoments:
    """Computes `moments` of rows `[n, features]`, row i counted `counts[i]` times."""
    total = counts.sum()
    if total < 2:
        raise ValueError(f"{total} rows: a covariance needs 2 at least")
    mean = counts @ x / total
    centred = (x - mean)[counts > 0] * np.sqrt(counts[counts > 0])[:, None]
    return FeatureMoments(mean, centred.T @ centred / (total - 1))


def frechet_distance(a: FeatureMoments, b: FeatureMoments) -> float:
    """Computes the squared Frechet (2-Wasserstein) distance of two Gaussians.

    The trace of the root is the sum of the singular values of `L_a^T L_b` with
    `L L^T` the covariances: roots are taken of eigenvalues of the covariances alone,
    never of those of a product, so singular covariances cost no digits and nothing is
    added to a diagonal. Eigenvalues that are negative by 1e-6 of the largest or less,
    which is what float32 does to a singular covariance, are taken for 0.

    Args:
      a: mean and covariance.
      b: of the same features.

    Raises:
      ValueError: shapes differ, or a covariance is not positive semi-definite.
    """
    shapes = [np.shape(part) for part in (*a, *b)]
    if shapes[0] != shapes[2] or set(shapes[1::2]) != {shapes[0] * 2}:
        raise ValueError(f"means and covariances of shapes {shapes}: must be of one d")
    left, right = _root(a.covariance), _root(b.covariance)
    overlap = np.linalg.svd(left.T @ right, compute_uv=False).sum()
    offset = np.asarray(a.mean, np.float64) - np.asarray(b.mean, np.float64)
    return float(offset @ offset + (left**2).sum() + (right**2).sum() - 2 * overlap)


def _root(covariance: np.ndarray) -> np.ndarray:
    """Returns L with `L L^T = covariance`, its columns along the eigenvectors."""
    covariance = np.asarray(covariance, np.float64)
    values, vectors = np.linalg.eigh(covariance)
    if values.min() < -1e-6 * np.abs(values).max() or not np.allclose(
        covariance, covariance.T
    ):
        raise ValueError(
            f"covariance with smallest eigenvalue {values.min():.3g} and largest "
            f"{values.max():.3g}: must be symmetric and positive semi-definite"
        )
    return vectors * np.sqrt(np.maximum(values, 0))


def check_rank(sizes: tuple[int, ...], features: int, allow_singular: bool) -> None:
    """Raises a `ValueError` where a covariance of so few rows has no full rank."""
    if not allow_singular and min(sizes) <= features:
        raise ValueError(
            f"{min(sizes)} rows for {features} features: a covariance of full rank "
            f"needs {features + 1} at least; take more rows or fewer features, a "
            "metric without covariances (kid()), or allow_singular=True for a number "
            "that is mostly bias"
        )


@register
class Frechet(Metric):
    """Squared Frechet distance of the moments of two sets, or of one to `reference`.

    Args:
      reference: `FeatureMoments` that are known: an exact law's, or a published
        file's. None where the metric is called with two sets.
      allow_singular: whether sets may have no more rows than features.

    Source: Heusel et al., GANs Trained by a Two Time-Scale Update Rule Converge to a
    Local Nash Equilibrium, arXiv:1706.08500.
    """

    reference: Any = None
    allow_singular: bool = static(default=False)

    @property
    def num_sets(self) -> int:  # type: ignore[override]
        """Number of sets: 1 with a reference, else 2."""
        return 2 if self.reference is None else 1

    def values(
        self, samples: tuple[np.ndarray, ...], counts: tuple[np.ndarray, ...]
    ) -> np.ndarray:
        """Computes the squared Frechet distance of every resample."""
        sizes = tuple(len(part) for part in samples)
        check_rank(sizes, samples[0].shape[1], self.allow_singular)
        references = [] if self.reference is None else [self.reference]
        distances = [
            frechet_distance(*map(weighted_moments, samples, each), *references)
            for each in zip(*counts, strict=True)
        ]
        return np.array(distances)


class Fit(NamedTuple):
    """Line fit of distances at several counts.

    Fields:
      inverse_count: 1 / rows of the first set, `[levels]`.
      distance: at these counts, `[levels]`.
      intercept: of the line, at 1 / rows = 0.
      slope: of the line, times rows.
    """

    inverse_count: np.ndarray
    distance: np.ndarray
    intercept: float
    slope: float


@register
class ExtrapolatedFrechet(Metric):
    """Squared Frechet distance extrapolated to 1 / n = 0, from several counts.

    At level k the rows are split into k blocks, and the distance is the mean over the
    blocks; the line is fitted to it as a function of k / n, by least squares. What is
    left is of order 1 / n^2 and can be negative.

    Deviation from the paper: it takes random subsets of the generated set against the
    fixed moments of the data, at 15 counts. Here every level uses every row, and of two
    sets both are split, so that the bias of both goes.

    Args:
      key: scalar, shuffles the rows.
      levels: numbers of blocks, two different ones at least.
      reference: as in `Frechet`.
      allow_singular: as in `Frechet`; the smallest block is checked.

    Raises:
      ValueError: `levels` names fewer than two numbers.

    Source: Chong and Forsyth, Effectively Unbiased FID and Inception Score and where to
    find them, arXiv:1911.07023.
    """

    key: Array
    levels: tuple[int, ...] = static(default=(1, 2, 3, 4))
    reference: Any = None
    allow_singular: bool = static(default=False)

    def __post_init__(self) -> None:
        if len(set(self.levels)) < 2 or min(self.levels) < 1:
            raise ValueError(
                f"levels={self.levels}: must be two different numbers of blocks or more"
            )

    @property
    def num_sets(self) -> int:  # type: ignore[override]
        """Number of sets: 1 with a reference, else 2."""
        return 2 if self.reference is None else 1

    def fit(self, *samples: ArrayLike) -> Fit:
        """Fits the line for sets `[n, *event]`, to check that it is one."""
        checked = self.checked(samples)
        distances = self._distances(checked, [np.ones(len(x), int) for x in checked])
        return self._line(len(checked[0]), distances)

    def values(
        self, samples: tuple[np.ndarray, ...], counts: tuple[np.ndarray, ...]
    ) -> np.ndarray:
        """Computes the extrapolated distance of every resample."""
        lines = [
            self._line(len(samples[0]), self._distances(samples, each))
            for each in zip(*counts, strict=True)
        ]
        return np.array([line.intercept for line in lines])

    def _line(self, count: int, distances: np.ndarray) -> Fit:
        inverse = np.array(self.levels) / count
        slope, intercept = np.polyfit(inverse, distances, 1)
        return Fit(inverse, distances, float(intercept), float(slope))

    def _distances(self, samples: tuple[np.ndarray, ...], counts: Any) -> np.ndarray:
        sizes = tuple(len(x) // max(self.levels) for x in samples)
        check_rank(sizes, samples[0].shape[1], self.allow_singular)
        references = [] if self.reference is None else [self.reference]
        orders = [
            shuffled(random.fold_in(self.key, i), len(x)) for i, x in enumerate(samples)
        ]
        dealt = [
            (x[order], count[order])
            for x, count, order in zip(samples, counts, orders, strict=True)
        ]
        part = lambda i, level: [
            weighted_moments(x[i::level], count[i::level]) for x, count in dealt
        ]
        mean = lambda level: np.mean(
            [frechet_distance(*part(i, level), *references) for i in range(level)]
        )
        return np.array([mean(level) for level in self.levels])
