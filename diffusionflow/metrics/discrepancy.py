"""Kernel metrics: the squared MMD, of which KID and energy distance are cases."""

from typing import Any

import numpy as np

from diffusionflow._dataclass import register, static
from diffusionflow.metrics.base import Memo, Metric, namespace
from diffusionflow.metrics.kernels import NegativeDistance, Polynomial

BLOCK = 1024  # rows of a kernel matrix in memory at a time


@register
class SquaredMMD(Metric):
    """Squared MMD, `E k(x, x') + E k(y, y') - 2 E k(x, y)`, between two sets.

    Unbiased: pairs of a row with itself are left out, so that the value may be
    negative; rows that a resample holds twice are no pair either, else resamples would
    be biased. With `unbiased=False` every pair is counted, as in the definition for two
    empirical laws: never negative, and biased upwards by O(1/n).

    Args:
      kernel: `(x, y) -> [n, m]`, symmetric.
      unbiased: whether to leave out pairs of a row with itself.

    Source: Gretton et al., A Kernel Two-Sample Test, JMLR 13, 2012.
    """

    kernel: Any
    unbiased: bool = static(default=True)

    def values_known(
        self,
        samples: tuple[np.ndarray, ...],
        counts: tuple[np.ndarray, ...],
        memo: Memo,
    ) -> np.ndarray:
        """Computes the squared MMD of every resample."""
        x, y = samples
        self._check_sizes(len(x), len(y))
        xp = namespace(x, y)
        as_type = lambda count, like: xp.asarray(count.astype(like.dtype))
        cx, cy = as_type(counts[0], x), as_type(counts[1], y)
        cross, _ = self._sum(x, y, cx, cy)
        cross = cross / (cx.sum(1) * cy.sum(1))
        return self._within(x, cx) + memo("within", self._within, y, cy) - 2 * cross

    def _check_sizes(self, *sizes: int) -> None:
        if self.unbiased and min(sizes) < 2:
            raise ValueError(
                f"sets of {sizes} rows: unbiased=True needs 2 of each at least"
            )

    def _within(self, x: np.ndarray, counts: np.ndarray) -> np.ndarray:
        total, diagonal = self._sum(x, x, counts, counts)
        pairs = counts.sum(1) ** 2
        if not self.unbiased:
            return total / pairs
        return (total - diagonal) / (pairs - (counts**2).sum(1))

    def _sum(
        self, x: np.ndarray, y: np.ndarray, cx: np.ndarray, cy: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Sums of `c_i c_j k(x_i, y_j)` over all pairs, and over i = j if x is y."""
        total: Any = 0.0
        diagonal: Any = 0.0
        for start in range(0, len(x), BLOCK):
            part = slice(start, start + BLOCK)
            first = start if x is y else 0  # the kernel is symmetric
            for other in range(first, len(y), BLOCK):
                columns = slice(other, other + BLOCK)
                matrix = self.kernel(x[part], y[columns])
                sums = ((cx[:, part] @ matrix) * cy[:, columns]).sum(1)
                total = total + (2 if x is y and other > start else 1) * sums
                if x is y and other == start:
                    diagonal = diagonal + cx[:, part] ** 2 @ matrix.diagonal()
        return total, diagonal


def kid() -> SquaredMMD:
    """Returns KID, the kernel inception distance: unbiased squared MMD, cubic kernel.

    Deviation from the paper: every pair is used, where the paper averages over blocks
    of 1,000 rows; the expectation is the same and the variance smaller.

    Source: Binkowski et al., Demystifying MMD GANs, arXiv:1801.01401.
    """
    return SquaredMMD(Polynomial())


def energy(*, unbiased: bool = True) -> SquaredMMD:
    """Returns the energy distance `2 E|x - y| - E|x - x'| - E|y - y'|`.

    It is the square of SciPy's `energy_distance`.

    Args:
      unbiased: whether pairs of a sample with itself are left out.

    Source: Szekely and Rizzo, Energy statistics, J. Stat. Plan. Inference 143, 2013.
    """
    return SquaredMMD(NegativeDistance(), unbiased)
