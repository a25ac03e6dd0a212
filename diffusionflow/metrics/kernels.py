"""Kernels `k(x, y)`: called with `[n, features]` and `[m, features]`, give `[n, m]`."""

from typing import Any

import numpy as np
from jax import Array

from diffusionflow._dataclass import check_bound, check_positive, register, static
from diffusionflow._numeric import root
from diffusionflow.metrics.base import namespace

Rows = np.ndarray | Array
FEW = 16  # features from which products of matrices are faster
CANCELLED = 1e-3  # share of the squares that may be left: 13 digits then
FEW_ROWS = 1024


@register
class Polynomial:
    """Polynomial kernel `(scale x.y + offset)^degree`; the defaults are KID's.

    Args:
      degree: integer, at least 1.
      scale: of the inner product; None is 1 / features.
      offset: not negative.

    Source: Binkowski et al., Demystifying MMD GANs, arXiv:1801.01401.
    """

    degree: int = static(default=3)
    scale: Any = None
    offset: Any = 1.0

    def __post_init__(self) -> None:
        check_bound("degree", self.degree, lambda n: n >= 1 and n == int(n), "1, 2, ..")
        check_bound("offset", self.offset, lambda offset: offset >= 0, "at least 0")

    def __call__(self, x: Rows, y: Rows) -> Any:
        scale = 1 / x.shape[1] if self.scale is None else self.scale
        return (scale * (x @ y.T) + self.offset) ** self.degree


@register
class RBF:
    """Gaussian (RBF) kernel `exp(-|x - y|^2 / (2 bandwidth^2))`.

    Args:
      bandwidth: positive, in units of the features.
    """

    bandwidth: Any

    def __post_init__(self) -> None:
        check_positive("bandwidth", self.bandwidth)

    def __call__(self, x: Rows, y: Rows) -> Any:
        xp = namespace(x, y)
        return xp.exp(squared_distances(x, y) / (-2 * self.bandwidth**2))


@register
class NegativeDistance:
    """Kernel `-|x - y|`: with it the squared MMD is the energy distance."""

    def __call__(self, x: Rows, y: Rows) -> Any:
        squared = squared_distances(x, y)
        if isinstance(squared, np.ndarray):
            return -np.sqrt(squared)
        return -root(squared)


def squared_distances(x: Rows, y: Rows) -> Any:
    """Computes `|x_i - y_j|^2`, `[n, m]`, to rounding.

    Of many features by products of matrices, and again from the differences where these
    would cancel.
    """
    if namespace(x, y) is not np:
        return ((x[:, None] - y[None]) ** 2).sum(-1)
    if x.shape[1] <= FEW:
        from scipy.spatial.distance import cdist  # slow to import; comes with jax

        return cdist(x, y, "sqeuclidean")
    centre = x.mean(0)  # which takes a part of the squares that cancel
    u, v = x - centre, y - centre
    norms = (u**2).sum(1)[:, None] + (v**2).sum(1)
    squared = norms - 2 * (u @ v.T)
    i, j = np.nonzero(squared < CANCELLED * norms)
    for start in range(0, len(i), FEW_ROWS):
        part = slice(start, start + FEW_ROWS)
        squared[i[part], j[part]] = ((x[i[part]] - y[j[part]]) ** 2).sum(1)
    return squared
