"""Bootstrap standard errors and confidence intervals of any metric."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from diffusionflow import random
from diffusionflow._dataclass import check_bound
from diffusionflow.metrics.base import Memo, Metric, shuffled
from diffusionflow.metrics.provenance import describe


class Estimate(NamedTuple):
    """Estimate with its standard error and interval. `_asdict()` is JSON.

    Fields:
      value: of the samples themselves.
      standard_error: standard deviation over resamples.
      low: lower end of the confidence interval.
      high: upper end.
      recipe: its provenance, what it was computed from; JSON types.
    """

    value: float
    standard_error: float
    low: float
    high: float
    recipe: dict[str, Any]


def measure(
    key: Array,
    metric: Metric,
    *samples: ArrayLike,
    features: str,
    reference: str,
    num_resamples: int = 200,
    level: float = 0.95,
) -> Estimate:
    """Computes a metric with its bootstrap standard error and confidence interval.

    Each set is resampled: n rows are sampled from its n rows, with replacement; of a
    paired metric the same rows of every set. The interval is `value` and the quantiles
    of the resamples' deviation from their mean. So it is about the expectation of the
    metric *at these counts*: a bias, such as that of `Frechet`, is not in it.

    Args:
      key: scalar; resample i is the same whatever their number.
      metric: any.
      *samples: what the metric takes, `[n, *event]` each.
      features: what the rows are, for the recipe: `"pixels"`, a network's identity.
      reference: what the metric compares with, for the recipe: data set and split.
      num_resamples: `2 / (1 - level) - 1` or more.
      level: of the interval, in (0, 1).

    Returns:
      `Estimate`.

    Raises:
      ValueError: an argument is out of range, or the metric cannot be computed.
    """
    estimate, _ = measure_resampled(
        key,
        metric,
        *samples,
        features=features,
        reference=reference,
        num_resamples=num_resamples,
        level=level,
    )
    return estimate


def measure_resampled(
    key: Array,
    metric: Metric,
    *samples: ArrayLike,
    features: str,
    reference: str,
    num_resamples: int = 200,
    level: float = 0.95,
    memo: Memo | None = None,
) -> tuple[Estimate, np.ndarray]:
    """Computes `measure`, and the metric of each resample, `[num_resamples]`.

    With one key, resample i has the same rows of all sets of one size, so what is
    measured of two methods can be subtracted later, without the samples: `subtract`.

    Args:
      key: as in `measure`.
      metric: as in `measure`.
      *samples: as in `measure`.
      features: as in `measure`.
      reference: as in `measure`.
      num_resamples: as in `measure`.
      level: as in `measure`.
      memo: keeps what depends on the last set alone, where several sets are measured
        against it with one metric and key.

    Raises:
      ValueError: as `measure`.
    """
    check_level(num_resamples, level)
    checked = metric.checked(samples)
    counts = _counts(key, metric, checked, num_resamples)
    recipe = _recipe("value", metric, checked, features, reference)
    recipe["bootstrap"] = _bootstrap(key, num_resamples, level)
    values = metric.values_known(checked, counts, memo or Memo())
    return _estimate(values, level, recipe), np.asarray(values[1:])


def difference(
    key: Array,
    metric: Metric,
    a: ArrayLike,
    b: ArrayLike,
    *others: ArrayLike,
    features: str,
    reference: str,
    num_resamples: int = 200,
    level: float = 0.95,
) -> Estimate:
    """Computes `metric(a, *others) - metric(b, *others)`, rows of a and b paired.

    Row i of both is of one seed, so they are resampled together, and what the pairs
    have in common cancels: the error is that of the difference, mostly much smaller
    than those of the two numbers.

    Args:
      key: as in `measure`.
      metric: any.
      a: samples of one method, `[n, *event]`.
      b: of the other from the same seeds, the same shape.
      *others: the other sets of the metric, such as the data.
      features: as in `measure`.
      reference: as in `measure`.
      num_resamples: as in `measure`.
      level: as in `measure`.

    Returns:
      `Estimate`; the difference is statistically significant where the interval is
      without 0.

    Raises:
      ValueError: a and b have not equally many rows, or as `measure`.
    """
    check_level(num_resamples, level)
    if np.shape(a) != np.shape(b):
        raise ValueError(
            f"sets of shapes {np.shape(a)} and {np.shape(b)}: must have one shape, "
            "with row i of both sampled from the same seed"
        )
    samples = metric.checked((a, *others))
    other = metric.checked((b, *others))
    counts = _counts(key, metric, samples, num_resamples)
    values = metric.values(samples, counts) - metric.values(other, counts)
    recipe = _recipe("difference", metric, samples, features, reference)
    recipe["bootstrap"] = _bootstrap(key, num_resamples, level)
    return _estimate(values, level, recipe)


def halves(key: Array, x: Array) -> tuple[Array, Array]:
    """Splits `x` into two disjoint halves, `[n // 2, *event]` each.

    A metric between halves of the real data is the held-out baseline: what exact
    samples would get at these counts.

    Args:
      key: scalar, shuffles the rows.
      x: `[n, *event]`.
    """
    order = shuffled(key, len(x))
    half = len(x) // 2
    return x[order[:half]], x[order[half : 2 * half]]


def check_level(num_resamples: int, level: float) -> None:
    """Raises a `ValueError` unless the resamples suffice for the level."""
    check_bound("level", level, lambda level: 0 < level < 1, "in (0, 1)")
    enough = lambda number: (number + 1) * (1 - level) / 2 >= 1 - 1e-9
    least = f"2 / (1 - level) - 1 = {2 / (1 - level) - 1:.0f} at least"
    check_bound("num_resamples", num_resamples, enough, least)


def _counts(
    key: Array, metric: Metric, samples: tuple[np.ndarray, ...], num_resamples: int
) -> tuple[np.ndarray, ...]:
    """Counts rows once, then the resamples: `[1 + num_resamples, n]` for each set."""
    return tuple(
        _drawn(random.fold_in(key, 0 if metric.paired else number), num_resamples, n)
        for number, n in enumerate(map(len, samples))
    )


def _drawn(key: Array, num_resamples: int, n: int) -> np.ndarray:
    # threefry numbers its draws, so the first rows do not depend on how many there are
    indices = jax.random.randint(key, (num_resamples, n), 0, n, jnp.int32)
    counts = [np.bincount(each, minlength=n) for each in np.asarray(indices)]
    return np.stack([np.ones(n, np.int64), *counts])


def _estimate(values: np.ndarray, level: float, recipe: dict[str, Any]) -> Estimate:
    value, resampled = values[0], values[1:]
    tails = [(1 - level) / 2, (1 + level) / 2]
    # places p (B + 1): others make the interval of few resamples too short
    ends = np.quantile(resampled, tails, method="weibull")
    low, high = value + ends - resampled.mean()
    return Estimate(
        float(value), float(resampled.std(ddof=1)), float(low), float(high), recipe
    )


def _recipe(
    kind: str,
    metric: Metric,
    samples: tuple[np.ndarray, ...],
    features: str,
    reference: str,
) -> dict[str, Any]:
    return {
        "kind": kind,
        "metric": describe(metric),
        "features": features,
        "num_features": samples[0].shape[1],
        "reference": reference,
        "counts": [len(part) for part in samples],
    }


def _bootstrap(key: Array, num_resamples: int, level: float) -> dict[str, Any]:
    return {"key": describe(key), "num_resamples": num_resamples, "level": level}
