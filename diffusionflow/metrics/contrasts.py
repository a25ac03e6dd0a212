"""Significance of differences between methods, measured on the same rows.

What both have in common (the examples, the seeds of the samples) is resampled together
and cancels. What they do not have in common, that training them again gives other
weights, is estimated from the scatter of repetitions, where both have several.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from diffusionflow import random
from diffusionflow.metrics.bootstrap import Estimate, check_level
from diffusionflow.metrics.provenance import check_same_recipe, describe

Numbers = Sequence[float] | np.ndarray | Array

NUM_DRAWS = 20_000  # of repetitions: the ends of the interval move by about 1 % of it


def mean_difference(
    key: Array,
    a: ArrayLike,
    b: ArrayLike | None = None,
    *,
    num_resamples: int = 2_000,
    level: float = 0.95,
) -> Estimate:
    """Computes `mean(a) - mean(b)`, rows paired, such as nats of the same examples.

    Args:
      key: scalar.
      a: of each repetition of one method (training seeds) and each row,
        `[repetitions, rows]`.
      b: of the other, the same rows; None for the mean of `a` alone.
      num_resamples: of the rows, `2 / (1 - level) - 1` or more.
      level: of the interval, in (0, 1).

    Returns:
      `Estimate`; see `contrast` for what it holds.

    Raises:
      ValueError: the rows are not equally many or less than two, a value is not finite,
        or a setting is out of range.
    """
    check_level(num_resamples, level)
    groups = [np.asarray(each, np.float64) for each in (a, b) if each is not None]
    shapes = [each.shape for each in groups]
    rows = shapes[0][-1] if shapes[0] else 0
    good = all(len(s) == 2 and s[0] >= 1 and s[1] == rows >= 2 for s in shapes)
    if not good or not all(np.isfinite(each).all() for each in groups):
        raise ValueError(
            f"sets of shapes {shapes}: must be finite, [repetitions, rows], of the "
            "same two rows or more"
        )
    each = groups[0].mean(0) - (groups[1].mean(0) if len(groups) == 2 else 0.0)
    indices = jax.random.randint(
        random.fold_in(key, 0), (num_resamples, rows), 0, rows, jnp.int32
    )
    resamples = np.array([each[places].mean() for places in np.asarray(indices)])
    means = [group.mean(1) for group in groups]
    estimate = contrast(key, *means, resamples=resamples, level=level)
    return estimate._replace(recipe=estimate.recipe | {"metric": "mean", "rows": rows})


def subtract(
    key: Array,
    a: Sequence[tuple[Estimate, np.ndarray]],
    b: Sequence[tuple[Estimate, np.ndarray]] = (),
    *,
    level: float = 0.95,
) -> Estimate:
    """Subtracts means, `a` less `b`, each from `measure_resampled` with one key.

    Resample i has the same rows for every one, so for one of each this is
    `difference`, without the samples.

    Args:
      key: scalar, for the repetitions.
      a: an estimate and its resamples, of each repetition of one method.
      b: of the other; empty for the mean of `a` alone.
      level: of the interval, in (0, 1).

    Returns:
      `Estimate`; see `contrast` for what it holds.

    Raises:
      ValueError: the recipes differ.
    """
    every = [*a, *b]
    for estimate, _ in every[1:]:
        check_same_recipe(every[0][0].recipe, estimate.recipe)
    check_level(len(every[0][1]), level)
    mean = lambda group: np.mean([resampled for _, resampled in group], axis=0)
    values = [[estimate.value for estimate, _ in group] for group in (a, b) if group]
    resamples = mean(a) - (mean(b) if b else 0.0)
    result = contrast(key, *values, resamples=resamples, level=level)
    return result._replace(recipe=every[0][0].recipe | result.recipe)


def contrast(
    key: Array,
    a: Numbers,
    b: Numbers | None = None,
    *,
    resamples: Numbers,
    level: float = 0.95,
) -> Estimate:
    """Computes `mean(a) - mean(b)` of repetitions, with both sources of error.

    The interval is that of `value + e + t r`: e is how far a resample lies from the
    resamples' mean, `r^2 = s_a^2 / k_a + s_b^2 / k_b` with s the deviation of the k
    repetitions, and t has Student's distribution, of Welch's degrees of freedom (of one
    method k - 1). Resampling the repetitions, as the rows are, would make it too
    short: of three normal ones of each, and rows without error, an interval of 95 %
    would cover 81 %.

    Args:
      key: scalar.
      a: the number of each repetition of one method, `[repetitions]`.
      b: of the other; None for the mean of `a` alone.
      resamples: of the value, with the rows that all have in common resampled,
        `[num_resamples]`.
      level: of the interval, in (0, 1).

    Returns:
      `Estimate`. With one repetition of either method it holds for these repetitions
      alone: the term of t is left out, and `recipe["repetitions_in_error"]` is False.

    Source: Welch 1947, Biometrika 34(1-2), the degrees of freedom.
    """
    groups = [np.asarray(each, np.float64) for each in (a, b) if each is not None]
    errors = np.asarray(resamples, np.float64)
    errors, variance = errors - errors.mean(), errors.var(ddof=1)
    repeated = all(len(group) >= 2 for group in groups)
    if repeated:
        parts = [group.var(ddof=1) / len(group) for group in groups]
        errors = np.resize(errors, max(NUM_DRAWS, len(errors)))
        errors = errors + _student(random.fold_in(key, 1), groups, parts, len(errors))
        variance += sum(parts)
    tails = [(1 - level) / 2, (1 + level) / 2]
    value = groups[0].mean() - (groups[1].mean() if len(groups) == 2 else 0.0)
    low, high = value + np.quantile(errors, tails, method="weibull")
    recipe: dict[str, Any] = {
        "kind": "difference" if len(groups) == 2 else "value",
        "repetitions": [len(group) for group in groups],
        "repetitions_in_error": repeated,
        "contrast": {
            "key": describe(key),
            "num_resamples": len(resamples),
            "level": level,
        },
    }
    error = float(np.sqrt(variance))
    return Estimate(float(value), error, float(low), float(high), recipe)


def _student(
    key: Array, groups: list[np.ndarray], parts: list[float], count: int
) -> np.ndarray:
    """Samples `t r`, of the repetitions alone, `[count]`."""
    total = sum(parts)
    if total == 0:
        return np.zeros(count)
    squares = zip(parts, groups, strict=True)
    degrees = total**2 / sum(part**2 / (len(group) - 1) for part, group in squares)
    t = jax.random.t(key, jnp.float32(degrees), (count,), jnp.float32)
    return np.sqrt(total) * np.asarray(t, np.float64)
