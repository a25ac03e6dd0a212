"""Frechet distance between the Gaussians of two sets.

    d^2 = |m_a - m_b|^2 + tr(A + B - 2 (A^(1/2) B A^(1/2))^(1/2))

With the features of Inception it is the FID. It is biased upwards by O(1/n).

With roots `R^T R` of the covariances the last trace is the sum of the singular values
of `R_a R_b^T`. A root of n rows of d features has min(n, d) rows: the centred rows
themselves, or the triangle of their QR decomposition. So the cost is that of the
smaller of rows and features, nothing is added to a diagonal, and covariances that are
singular cost no digits.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from jax.typing import ArrayLike

from diffusionflow._dataclass import register, static
from diffusionflow.metrics.base import Memo, Metric, rows

BLOCK = 4096  # rows that are decomposed at a time
NEGLIGIBLE = 1e-12  # singular values, of the largest, whose vectors are rounding


class FeatureMoments(NamedTuple):
    """The first two moments of features, float64.

    Fields:
      mean: `[features]`.
      covariance: `[features, features]`.
    """

    mean: np.ndarray
    covariance: np.ndarray


class FactoredMoments(NamedTuple):
    """The moments of features with a root of the covariance, float64.

    Fields:
      mean: `[features]`.
      root: R with `R^T R` the covariance, `[min(rows, features), features]`.
    """

    mean: np.ndarray
    root: np.ndarray


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
    _check_rows(counts.sum())
    mean = counts @ x / counts.sum()
    centred = (x - mean)[counts > 0] * np.sqrt(counts[counts > 0])[:, None]
    return FeatureMoments(mean, centred.T @ centred / (counts.sum() - 1))


def factored(x: np.ndarray) -> FactoredMoments:
    """Computes the moments of rows `[n, features]`, without their covariance.

    More rows than features are reduced by QR decompositions, a block of rows at a time.

    Raises:
      ValueError: fewer than two rows.
    """
    _check_rows(len(x))
    mean, scale = x.mean(0), 1 / np.sqrt(len(x) - 1)
    if len(x) <= x.shape[1]:
        return FactoredMoments(mean, scale * (x - mean))
    root = np.zeros((0, x.shape[1]))
    for part in _blocks(len(x), max(BLOCK, 2 * x.shape[1])):
        rows_left = np.concatenate([root, x[part] - mean])
        root = np.asarray(np.linalg.qr(rows_left, mode="r"))
    return FactoredMoments(mean, scale * root)


def frechet_distance(a: FeatureMoments, b: FeatureMoments) -> float:
    """Computes the squared Frechet (2-Wasserstein) distance of two Gaussians.

    Roots are taken of eigenvalues of the covariances alone, never of those of a
    product. Eigenvalues that are negative by 1e-6 of the largest or less, which is what
    float32 does to a singular covariance, are taken for 0.

    Args:
      a: mean and covariance.
      b: of the same features.

    Raises:
      ValueError: shapes differ, or a covariance is not positive semi-definite.
    """
    shapes = [np.shape(part) for part in (*a, *b)]
    if shapes[0] != shapes[2] or set(shapes[1::2]) != {shapes[0] * 2}:
        raise ValueError(
            f"means and covariances of shapes {shapes}: must be [d] and [d, d], with "
            "one d for both sets"
        )
    return _distance(factored_moments(a), factored_moments(b))


def factored_moments(known: FeatureMoments) -> FactoredMoments:
    """Factors a covariance along its eigenvectors; see `frechet_distance`."""
    covariance = np.asarray(known.covariance, np.float64)
    values, vectors = np.linalg.eigh(covariance)
    if values.min() < -1e-6 * np.abs(values).max() or not np.allclose(
        covariance, covariance.T
    ):
        raise ValueError(
            f"covariance with smallest eigenvalue {values.min():.3g} and largest "
            f"{values.max():.3g}: must be symmetric and positive semi-definite"
        )
    root = (vectors * np.sqrt(np.maximum(values, 0))).T
    return FactoredMoments(np.asarray(known.mean, np.float64), root)


def _distance(a: FactoredMoments, b: FactoredMoments) -> float:
    overlap = np.linalg.svd(a.root @ b.root.T, compute_uv=False)
    return _combined(a, b, overlap)


def _combined(a: FactoredMoments, b: FactoredMoments, overlap: np.ndarray) -> float:
    offset = a.mean - b.mean
    traces = (a.root**2).sum() + (b.root**2).sum()
    return float(offset @ offset + traces - 2 * overlap.sum())


class Expansion(NamedTuple):
    """A distance, and its derivative by how often each row counts.

    Fields:
      value: squared.
      influences: of each set, `[n]`, of mean 0.
    """

    value: float
    influences: list[np.ndarray]


def expanded(
    samples: Sequence[np.ndarray], factors: Sequence[FactoredMoments]
) -> Expansion:
    """Expands the distance of two Gaussians to first order in the counts of rows.

    With `R_a R_b^T = U S V^T` the derivative of the trace of S by the count of row x of
    the first set is `|(x - m_a) R_b^T V S^(-1/2)|^2 / (2 (n - 1))`.

    Args:
      samples: rows of the first, or of both Gaussians, `[n, features]`.
      factors: of both.
    """
    a, b = factors
    left, overlap, right = np.linalg.svd(a.root @ b.root.T, full_matrices=False)
    kept = overlap > NEGLIGIBLE * overlap.max(initial=0.0)
    scale = np.sqrt(overlap[kept])
    maps = (b.root.T @ right[kept].T / scale, a.root.T @ left[:, kept] / scale)
    influences = [
        _influence(x, own.mean, own.mean - other.mean, along)
        for x, own, other, along in zip(samples, (a, b), (b, a), maps, strict=False)
    ]
    return Expansion(_combined(a, b, overlap), influences)


def _influence(
    x: np.ndarray, mean: np.ndarray, offset: np.ndarray, along: np.ndarray
) -> np.ndarray:
    influence = np.empty(len(x))
    for part in _blocks(len(x), BLOCK):
        centred = x[part] - mean
        squares = (centred**2).sum(1) - ((centred @ along) ** 2).sum(1)
        influence[part] = squares / (len(x) - 1) + 2 * centred @ offset / len(x)
    return influence - influence.mean()


def resampled(expansion: Expansion, counts: Sequence[np.ndarray]) -> np.ndarray:
    """Evaluates an expansion for counts of rows, `[num_resamples, n]` for each set."""
    changes = [
        (count - 1) @ influence
        for count, influence in zip(counts, expansion.influences, strict=True)
    ]
    return expansion.value + sum(changes)


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

    The distance of a resample is that of the set to first order in the counts of its
    rows (the infinitesimal jackknife): one decomposition for all of them. For two sets
    of one law, where the distance is mostly its bias, their spread is then 1.4 times
    that of the distance, where that of resamples decomposed each is 2 to 3 times.

    Args:
      reference: `FeatureMoments` that are known: an exact law's, or a published
        file's. None where the metric is called with two sets.
      allow_singular: whether sets may have no more rows than features.

    Source: Heusel et al., GANs Trained by a Two Time-Scale Update Rule Converge to a
    Local Nash Equilibrium, arXiv:1706.08500. Errors: Efron, The Jackknife, the
    Bootstrap and Other Resampling Plans, SIAM, 1982, chapter 6.
    """

    reference: Any = None
    allow_singular: bool = static(default=False)

    @property
    def num_sets(self) -> int:  # type: ignore[override]
        """Number of sets: 1 with a reference, else 2."""
        return 2 if self.reference is None else 1

    def values_known(
        self,
        samples: tuple[np.ndarray, ...],
        counts: tuple[np.ndarray, ...],
        memo: Memo,
    ) -> np.ndarray:
        """Computes the squared Frechet distance of every resample."""
        sizes = tuple(len(part) for part in samples)
        check_rank(sizes, samples[0].shape[1], self.allow_singular)
        if self.reference is None:
            other = memo("moments", factored, samples[1])
        else:
            other = factored_moments(self.reference)
        factors = factored(samples[0]), other
        if len(counts[0]) == 1 and all((count == 1).all() for count in counts):
            return np.array([_distance(*factors)])
        return resampled(expanded(samples, factors), counts)


def _check_rows(count: int) -> None:
    if count < 2:
        raise ValueError(f"{count} rows: a covariance needs 2 at least")


def _blocks(count: int, size: int) -> Iterator[slice]:
    return (slice(start, start + size) for start in range(0, count, size))
