"""Kernels `k(x, y)`: called with `[n, features]` and `[m, features]`, give `[n, m]`."""

from typing import Any

import numpy as np
from jax import Array

from diffusionflow._dataclass import check_bound, check_positive, register, static
from diffusionflow._numeric import root
from diffusionflow.metrics.base import namespace

Rows = np.ndarray | Array


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
    """Computes `|x_i - y_j|^2`, `[n, m]`, from differences: nothing cancels."""
    if namespace(x, y) is np:
        from scipy.spatial.distance import cdist  # slow to import; comes with jax

        return cdist(x, y, "sqeuclidean")
    return ((x[:, None] - y[None]) ** 2).sum(-1)
