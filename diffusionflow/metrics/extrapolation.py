"""Frechet distance extrapolated to infinitely many rows, from several counts."""

from typing import Any, NamedTuple

import numpy as np
from jax import Array
from jax.typing import ArrayLike

from diffusionflow import random
from diffusionflow._dataclass import register, static
from diffusionflow.metrics.base import Metric, shuffled
from diffusionflow.metrics.frechet import (
    Expansion,
    check_rank,
    expanded,
    factored,
    factored_moments,
    resampled,
)


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
        return self._line(len(checked[0]), [one.value for one in self._expand(checked)])

    def values(
        self, samples: tuple[np.ndarray, ...], counts: tuple[np.ndarray, ...]
    ) -> np.ndarray:
        """Computes the extrapolated distance of every resample, as `Frechet` does."""
        levels, count = self._expand(samples), len(samples[0])
        line = self._line(count, [one.value for one in levels])
        shares = self._line(count, np.eye(len(levels))).intercept  # of each level
        influences = [
            shares @ np.stack(of_levels)
            for of_levels in zip(*(one.influences for one in levels), strict=True)
        ]
        return resampled(Expansion(line.intercept, influences), counts)

    def _line(self, count: int, distances: Any) -> Fit:
        inverse = np.array(self.levels) / count
        slope, intercept = np.polyfit(inverse, np.asarray(distances), 1)
        return Fit(inverse, np.asarray(distances), intercept, slope)

    def _expand(self, samples: tuple[np.ndarray, ...]) -> list[Expansion]:
        """Expands the mean distance of the blocks of each level."""
        sizes = tuple(len(x) // max(self.levels) for x in samples)
        check_rank(sizes, samples[0].shape[1], self.allow_singular)
        known = [] if self.reference is None else [factored_moments(self.reference)]
        orders = [
            shuffled(random.fold_in(self.key, i), len(x)) for i, x in enumerate(samples)
        ]
        return [
            self._mean_of_blocks(level, samples, orders, known) for level in self.levels
        ]

    def _mean_of_blocks(
        self,
        level: int,
        samples: tuple[np.ndarray, ...],
        orders: list[np.ndarray],
        known: list[Any],
    ) -> Expansion:
        value, influences = 0.0, [np.zeros(len(x)) for x in samples]
        for block in range(level):
            places = [order[block::level] for order in orders]
            parts = [x[place] for x, place in zip(samples, places, strict=True)]
            one = expanded(parts, [*map(factored, parts), *known])
            value += one.value / level
            for total, place, own in zip(
                influences, places, one.influences, strict=True
            ):
                total[place] = own / level
        return Expansion(value, influences)
