"""2-Wasserstein distance `sqrt(min E|x - y|^2)`: of projections, and exact."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from diffusionflow._dataclass import check_count, is_traced, register, static
from diffusionflow.metrics.base import Metric, namespace
from diffusionflow.metrics.kernels import squared_distances


@register
class SlicedWasserstein2(Metric):
    """Sliced W2, `sqrt(mean over directions of W2(direction . x, direction . y)^2)`.

    Directions are uniform on the unit sphere. In one dimension the distance is that of
    the quantile functions, `int_0^1 (F^-1 - G^-1)^2`, exactly, for any two counts.

    Args:
      key: scalar, samples the directions.
      num_projections: positive integer; the value differs between keys by about
        1 / sqrt(num_projections) of what it differs between directions.

    Source: Bonneel et al., Sliced and Radon Wasserstein Barycenters of Measures,
    J. Math. Imaging Vis. 51, 2015.
    """

    key: Array
    num_projections: int = static(default=128)

    def __post_init__(self) -> None:
        check_count("num_projections", self.num_projections)

    def values(
        self, samples: tuple[np.ndarray, ...], counts: tuple[np.ndarray, ...]
    ) -> np.ndarray:
        """Computes sliced W2 of every resample; traced samples count once each."""
        x, y = samples
        xp = namespace(x, y)
        shape = (self.num_projections, x.shape[1])
        normal = jax.random.normal(self.key, shape, jnp.float32)
        normal = xp.asarray(normal).astype(x.dtype)
        directions = normal / xp.sqrt((normal**2).sum(1, keepdims=True))
        lines = [directions @ part.T for part in samples]
        if is_traced(samples):
            ends = [xp.sort(line, axis=1) for line in lines]
            return xp.sqrt(squared_quantile_distance(*ends).mean())[None]
        distances = []
        orders = [np.argsort(line, axis=1) for line in lines]
        for each in zip(*counts, strict=True):
            drawn = map(_drawn, lines, orders, each)
            distances.append(np.sqrt(squared_quantile_distance(*drawn).mean()))
        return np.array(distances)


def _drawn(values: np.ndarray, order: np.ndarray, count: np.ndarray) -> np.ndarray:
    """Repeats every entry of `values`, sorted by row, as often as it counts."""
    ranked = np.take_along_axis(values, order, axis=1)
    return np.repeat(ranked.ravel(), count[order].ravel()).reshape(len(values), -1)


def squared_quantile_distance(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Computes `int_0^1 (F^-1(u) - G^-1(u))^2 du` over the last axis of sorted values.

    Args:
      x: `[*batch, n]`, rising.
      y: `[*batch, m]`, rising.

    Returns:
      `[*batch]`, the squared W2 of the two empirical laws.
    """
    n, m = x.shape[-1], y.shape[-1]
    # both quantile functions are constant between these multiples of 1 / (n m)
    ends = np.union1d(np.arange(n + 1) * m, np.arange(m + 1) * n)
    widths = (np.diff(ends) / (n * m)).astype(x.dtype)
    gaps = x[..., ends[:-1] // m] - y[..., ends[:-1] // n]
    return (gaps**2 @ widths.reshape(-1, 1))[..., 0]


@register
class Wasserstein2(Metric):
    """W2, `sqrt(min over pairings of mean |x_i - y_pairing(i)|^2)`, by assignment.

    Exact for the two sets, which must be equally large; the cost is O(n^3) (2,000 rows:
    a second). It estimates the distance of the laws with a bias of O(n^(-1/d)) in d
    dimensions.
    """

    def values(
        self, samples: tuple[np.ndarray, ...], counts: tuple[np.ndarray, ...]
    ) -> np.ndarray:
        """Computes W2 of every resample."""
        from scipy.optimize import linear_sum_assignment  # comes with jax

        x, y = samples
        if len(x) != len(y):
            raise ValueError(
                f"sets of {len(x)} and {len(y)} rows: must be equally large; "
                "SlicedWasserstein2 takes any two"
            )
        cost = squared_distances(x, y)
        distances = []
        for each in zip(*counts, strict=True):
            indices = [np.repeat(np.arange(len(x)), count) for count in each]
            chosen = cost[np.ix_(*indices)]
            distances.append(np.sqrt(chosen[linear_sum_assignment(chosen)].mean()))
        return np.array(distances)
