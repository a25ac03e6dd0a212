"""Base class of metrics: sets of rows, and how often each row counts.

A metric is a value (`Frechet()`, `SquaredMMD(RBF(1.0))`) that is called with sets of
samples or features, `[n, *event]`. A resample of a set is the vector of how often each
row was sampled: `values` takes many of them at once, so that what does not change
between resamples (kernel matrices, sorted projections) is computed once.

Numbers are computed on the host in float64, `np.ndarray` in annotations. `SquaredMMD`,
`SlicedWasserstein2`, `Mean` and `RMSError` are pure functions of their samples: where
these are traced, the same code runs in jax, in their type.
"""

from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from diffusionflow._dataclass import is_traced


class Memo:
    """Keeps the last result of each function of arrays, such as those of real data.

    `memo(name, fn, *arrays)` is `fn(*arrays)`, computed again where function or arrays
    differ from those of the last call of this name.
    """

    def __init__(self) -> None:
        self._known: dict[str, tuple[Any, tuple[np.ndarray, ...], Any]] = {}

    def __call__(self, name: str, fn: Callable[..., Any], *arrays: Any) -> Any:
        if is_traced(arrays):
            return fn(*arrays)
        known_fn, there, result = self._known.get(name, (None, (), None))
        same = known_fn == fn and len(there) == len(arrays)
        if not same or not all(map(np.array_equal, there, arrays)):
            result = fn(*arrays)
            self._known[name] = fn, tuple(map(np.array, arrays)), result
        return result


class Metric:
    """Base class: a number computed from `num_sets` sets of rows.

    `paired` says that row i of the sets belong together: they are resampled as one.
    """

    num_sets: ClassVar[int] = 2
    paired: ClassVar[bool] = False

    def values(
        self, samples: tuple[np.ndarray, ...], counts: tuple[np.ndarray, ...]
    ) -> np.ndarray:
        """Computes the metric of every resample.

        Args:
          samples: from `checked`, `[n, features]` each.
          counts: how often each row is sampled, integers `[num_resamples, n]` each.

        Returns:
          `[num_resamples]`.
        """
        return self.values_known(samples, counts, Memo())

    def values_known(
        self,
        samples: tuple[np.ndarray, ...],
        counts: tuple[np.ndarray, ...],
        memo: Memo,
    ) -> np.ndarray:
        """Computes `values`; what depends on the last set alone may be in `memo`.

        A metric defines `values`, or this where several sets are compared with one.

        Args:
          samples: as in `values`.
          counts: as in `values`.
          memo: of this metric; the same for all sets that are compared with the last.
        """
        del memo
        if type(self).values is Metric.values:
            raise NotImplementedError(f"{type(self).__name__} defines no values")
        return self.values(samples, counts)

    def __call__(self, *samples: ArrayLike) -> Any:
        """Computes the metric of `[n, *event]` each: a float, or a traced scalar."""
        checked = self.checked(samples)
        once = tuple(np.ones((1, len(part)), np.int64) for part in checked)
        value = self.values(checked, once)[0]
        return value if is_traced(value) else float(value)

    def checked(self, samples: tuple[ArrayLike, ...]) -> tuple[np.ndarray, ...]:
        """Checks the sets, and converts them to what `values` takes.

        Raises:
          ValueError: the number of sets, their shapes or their values do not fit.
        """
        checked = rows(*samples)
        if len(checked) != self.num_sets:
            raise ValueError(
                f"{len(checked)} sets of samples: must be {self.num_sets} for {self}"
            )
        sizes = {len(part) for part in checked}
        if self.paired and len(sizes) > 1:
            raise ValueError(
                f"sets of {sorted(sizes)} rows: must have equally many for {self}, "
                "which compares row i with row i"
            )
        return checked


def rows(*samples: ArrayLike) -> tuple[np.ndarray, ...]:
    """Flattens to `[n, features]`: NumPy float64, or as it is where traced.

    Raises:
      ValueError: a set has no rows, features of two sets differ in number, or a value
        is not finite.
    """
    traced = is_traced(samples)
    xp = namespace(*samples)
    flat = []
    for each in samples:
        part = xp.asarray(each) if traced else np.asarray(each, np.float64)
        if part.ndim < 1 or not len(part):
            raise ValueError(f"samples of shape {part.shape}: must be [n, *event]")
        flat.append(part.reshape(len(part), -1))
    widths = {part.shape[1] for part in flat}
    if len(widths) > 1:
        raise ValueError(
            f"sets of shapes {[np.shape(part) for part in samples]} have "
            f"{[part.shape[1] for part in flat]} features: must have equally many"
        )
    if not traced:
        _check_finite(flat)
    return tuple(flat)


def shuffled(key: Array, n: int) -> np.ndarray:
    """Permutes 0..n-1 at random, by a scalar key."""
    return np.asarray(jax.random.permutation(key, jnp.arange(n, dtype=jnp.int32)))


def namespace(*arrays: Any) -> Any:
    """Returns `jax.numpy` where an array is traced, else `numpy`."""
    return jnp if is_traced(arrays) else np


def _check_finite(samples: list[np.ndarray]) -> None:
    for number, part in enumerate(samples):
        bad = np.flatnonzero(~np.isfinite(part).all(axis=1))
        if len(bad):
            raise ValueError(
                f"{len(bad)} of {len(part)} rows of set {number} are not finite (the "
                f"first: row {bad[0]}); a metric leaves none out: remove them, and "
                "report their number next to the metric"
            )
