"""Data sets in memory, their split, and the transform to floats.

Everything here is a pure function of its arguments; all random numbers are of NumPy's
`RandomState`, whose stream is frozen. A data set stores what its source stores
(quantised grey levels as uint8, points as float32); `DataTransform` is the one way to
floats and back.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

HOLD_OUT = 9  # every 9th example of each class is a test example


@dataclasses.dataclass(frozen=True)
class DataTransform:
    """Between stored values and the floats that a model sees.

    With `levels` = L, level q in 0..L-1 is the float 2 q / (L - 1) - 1 in [-1, 1].
    With `levels` = None, stored values are floats already and pass unchanged.

    Args:
      levels: number of quantisation levels, 2 to 256, or None.

    Raises:
      ValueError: if `levels` is out of range.
    """

    levels: int | None = None

    def __post_init__(self):
        if self.levels is not None and not 2 <= self.levels <= 256:
            raise ValueError(
                f"levels={self.levels}: must be in 2..256 (samples are stored as "
                "uint8), or None for data that are floats already"
            )

    def to_float(self, values: jax.Array) -> jax.Array:
        """Stored values [...] as float32 [...]."""
        values = jnp.asarray(values).astype(jnp.float32)
        return values if self.levels is None else values * (2 / (self.levels - 1)) - 1

    def to_stored(self, x: np.ndarray) -> np.ndarray:
        """Floats [...] as the nearest stored values; the inverse of `to_float`.

        Floats outside [-1, 1] become the end levels: this is the only place where
        anything is clamped, and `clamped_fraction` tells how much it was.
        """
        x = np.asarray(x, np.float32)
        if self.levels is None:
            return x
        top = self.levels - 1
        return np.clip(np.rint((x + 1) * (top / 2)), 0, top).astype(np.uint8)

    def clamped_fraction(self, x: np.ndarray) -> float:
        """The fraction of floats more than half a level outside [-1, 1]."""
        if self.levels is None:
            return 0.0
        return float(np.mean(np.abs(np.asarray(x)) > 1 + 1 / (self.levels - 1)))


class Examples(NamedTuple):
    """Stored values [n, *event] and int32 class labels [n]."""

    values: np.ndarray
    labels: np.ndarray

    def gather(self, index: np.ndarray) -> "Examples":
        """The examples at `index` [b], as `Examples` of [b, *event] and [b]."""
        return Examples(self.values[index], self.labels[index])


class DataSet(NamedTuple):
    """A fixed train/test split, its transform and its number of classes."""

    train: Examples
    test: Examples
    transform: DataTransform
    num_classes: int

    @property
    def event_shape(self) -> tuple[int, ...]:
        """Shape of one example: [height, width, channels] or [features]."""
        return self.train.values.shape[1:]


def split(values: np.ndarray, labels: np.ndarray, levels: int | None) -> DataSet:
    """Holds out every 9th example of each class, in stored order.

    The rule uses no random generator, so the split is the same for every version of
    every library.

    Args:
      values: stored values [n, *event].
      labels: class labels [n], integers from 0.
      levels: number of quantisation levels, or None for floats.
    """
    labels = np.asarray(labels, np.int32)
    num_classes = int(labels.max()) + 1
    held_out = np.zeros(len(labels), bool)
    for label in range(num_classes):
        held_out[np.flatnonzero(labels == label)[HOLD_OUT - 1 :: HOLD_OUT]] = True
    parts = (Examples(values[mask], labels[mask]) for mask in (~held_out, held_out))
    return DataSet(*parts, transform=DataTransform(levels), num_classes=num_classes)


def digits() -> DataSet:
    """The 1,797 handwritten digits of scikit-learn: uint8 [n, 8, 8, 1], levels 0..16.

    Source: Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, UCI
    machine learning repository, 1998 (its test part), as bundled with scikit-learn.
    """
    from sklearn.datasets import load_digits  # slow to import, and needed only here

    bunch = load_digits()
    return split(bunch.images.astype(np.uint8)[..., None], bunch.target, levels=17)


def moons(*, size: int = 20_000, seed: int = 0, noise: float = 0.08) -> DataSet:
    """Two interleaved half circles, float32 [size, 2]; the label is the half circle.

    Centred, and scaled so that the mean variance of the two coordinates is 1.

    Args:
      size: number of points, train and test together; at least 18.
      seed: of the points; training has a seed of its own.
      noise: standard deviation of the noise around circles of radius 1.
    """
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
    """Uniform on the 8 dark squares of a 4 x 4 board, float32 [size, 2].

    The board is [-sqrt(3), sqrt(3)]^2, so that both coordinates have variance 1; the
    label is the square.

    Args:
      size: number of points, train and test together; at least 72.
      seed: of the points; training has a seed of its own.
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
    """Equal Gaussians of deviation `std` on a circle, float32 [size, 2].

    The radius is sqrt(2 (1 - std^2)), so that both coordinates have variance 1; the
    label is the Gaussian.

    Args:
      size: number of points, train and test together; at least 9 * num_modes.
      seed: of the points; training has a seed of its own.
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
    """The means [num_modes, 2] of the Gaussians of `mixture`, in float64."""
    angle = 2 * np.pi * np.arange(num_modes) / num_modes
    radius = np.sqrt(2 * (1 - std**2))
    return radius * np.stack([np.cos(angle), np.sin(angle)], axis=1)


def _generator(
    size: int, seed: int, num_classes: int
) -> tuple[np.random.RandomState, np.ndarray]:
    """A generator, and labels [size] in turn."""
    least = HOLD_OUT * num_classes
    if size < least:
        raise ValueError(
            f"size={size} leaves a class without a test example: every "
            f"{HOLD_OUT}th is held out, so {num_classes} classes need at least {least}"
        )
    return np.random.RandomState(seed), np.arange(size) % num_classes
