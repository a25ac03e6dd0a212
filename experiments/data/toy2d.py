"""Points in the plane: moons, a checkerboard, a mixture of Gaussians."""

import numpy as np

from experiments.data.base import HOLD_OUT, DataSet, split

MOST = 10_000_000  # points, which take 80 MB
NOISIEST = 1_000


def moons(*, size: int = 20_000, seed: int = 0, noise: float = 0.08) -> DataSet:
    """Samples two interleaved half circles, float32 [size, 2]; the label says which.

    Centred, and scaled so that the mean variance of the two coordinates is 1.

    Args:
      size: number of points, train and test together; 18 to 10,000,000.
      seed: of the points, in [0, 2^32); training has a seed of its own.
      noise: standard deviation of the noise around circles of radius 1, 0 to
        1,000.

    Raises:
      ValueError: if an argument is out of range.
    """
    if not 0 <= noise <= NOISIEST:
        raise ValueError(f"noise={noise}: must be in 0..{NOISIEST}")
    rng, labels = _generator(size, seed, num_classes=2)
    angle = np.pi * rng.random_sample(size)
    sign = 1 - 2 * labels
    x = sign * np.cos(angle) + labels - 1 / 2
    y = sign * np.sin(angle) + labels / 2 - 1 / 4
    points = np.stack([x, y], axis=1) + noise * rng.standard_normal((size, 2))
    variance = (3 / 4 + 9 / 16 - 1 / np.pi) / 2  # of the noiseless curves, exactly
    scale = 1 / np.sqrt(variance + noise**2)
    return split((scale * points).astype(np.float32), labels, levels=None)


def checkerboard(*, size: int = 20_000, seed: int = 0) -> DataSet:
    """Samples uniformly on the 8 dark squares of a 4 x 4 board, float32 [size, 2].

    The board is [-sqrt(3), sqrt(3)]^2, so that both coordinates have variance 1; the
    label is the square.

    Args:
      size: number of points, train and test together; 72 to 10,000,000.
      seed: of the points, in [0, 2^32); training has a seed of its own.

    Raises:
      ValueError: if an argument is out of range.
    """
    rng, labels = _generator(size, seed, num_classes=8)
    row = labels // 2
    column = 2 * (labels % 2) + row % 2
    corner = np.stack([column, row], axis=1)
    points = np.sqrt(3) * ((corner + rng.random_sample((size, 2))) / 2 - 1)
    return split(points.astype(np.float32), labels, levels=None)


def mixture(
    *, size: int = 20_000, seed: int = 0, num_modes: int = 8, std: float = 0.1
) -> DataSet:
    """Samples equal Gaussians of deviation `std` on a circle, float32 [size, 2].

    The radius is sqrt(2 (1 - std^2)), so that both coordinates have variance 1; the
    label is the Gaussian.

    Args:
      size: number of points, train and test together; from 9 * num_modes to
        10,000,000.
      seed: of the points, in [0, 2^32); training has a seed of its own.
      num_modes: number of Gaussians, at least 3: fewer do not fill the plane.
      std: standard deviation of each, in (0, 1).

    Raises:
      ValueError: if `num_modes` or `std` is out of range.
    """
    if num_modes < 3:
        raise ValueError(
            f"num_modes={num_modes}: must be at least 3, because both coordinates have "
            "variance 1"
        )
    if not 0 < std < 1:
        raise ValueError(
            f"std={std}: must be in (0, 1), because the total variance is 1"
        )
    rng, labels = _generator(size, seed, num_classes=num_modes)
    means = mixture_means(num_modes=num_modes, std=std)
    points = means[labels] + std * rng.standard_normal((size, 2))
    return split(points.astype(np.float32), labels, levels=None)


def mixture_means(*, num_modes: int, std: float) -> np.ndarray:
    """Computes the means [num_modes, 2] of the Gaussians of `mixture`, in float64."""
    angle = 2 * np.pi * np.arange(num_modes) / num_modes
    radius = np.sqrt(2 * (1 - std**2))
    return radius * np.stack([np.cos(angle), np.sin(angle)], axis=1)


def _generator(
    size: int, seed: int, num_classes: int
) -> tuple[np.random.RandomState, np.ndarray]:
    """Makes a random generator, and labels [size] of the classes in turn."""
    least = HOLD_OUT * num_classes
    if size < least:
        raise ValueError(
            f"size={size} leaves a class without a test example: every "
            f"{HOLD_OUT}th is held out, so {num_classes} classes need at least {least}"
        )
    if size > MOST:
        raise ValueError(f"size={size}: must be at most {MOST}")
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed={seed}: must be in 0..{2**32 - 1}")
    return np.random.RandomState(seed), np.arange(size) % num_classes
