"""Distances between predictions and targets, and normalised steps.

A metric is `(prediction, target, batch_ndim) -> [*batch]`. Squared error alone has the
conditional mean as its optimum in any dimension, and the mean is what a flow map needs.
The others come close in many dimensions, where the squared error of all examples is
nearly the same, and are wrong in few: there the optimum is nearer to the median, and
the map learned is the flow of the more likely values. Of targets that are -1 or 1 in
each coordinate, 1 with probability 0.7, this probability is learned (or the one in
brackets, from a start nearer to it):

| dimensions | `Adaptive(1.0, 0.01)` | `Adaptive(0.75, 0.001)` | `PseudoHuber()` |
|------------|-----------------------|-------------------------|-----------------|
| 1          | 0.999 (0.006)         | 0.999 (0.005)           | 1.000           |
| 2          | 0.999 (0.015)         | 0.999                   | 1.000           |
| 8          | 0.796 (0.994)         | 0.756                   | 0.732           |
| 64         | 0.706                 | 0.705                   | 0.703           |

Tests and data of few dimensions need `squared`. The others warn below 64 dimensions.
"""

import math
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from diffusionflow import predictions
from diffusionflow._dataclass import (
    check_batch_ndim,
    check_bound,
    check_positive,
    is_finite,
    is_traced,
    register,
)
from diffusionflow.predictions.checks import check_float

LEAST_DIM = 64  # of an event, from which on the metrics that are robust come close

Metric = Callable[[Array, Array, int], Array]
StepFn = Callable[[Array, int], Array]


def squared(prediction: Array, target: Array, batch_ndim: int) -> Array:
    """Computes the squared error, mean over the event.

    Args:
      prediction: `[*batch, *event]`.
      target: like `prediction`.
      batch_ndim: number of batch axes.

    Returns:
      `[*batch]`.

    Raises:
      ValueError: the shapes differ, which would broadcast, an array is of integers, or
        there are not so many axes.
    """
    error = _difference(prediction, target, batch_ndim) ** 2
    return jnp.mean(error, axis=tuple(range(batch_ndim, error.ndim)))


@register
class PseudoHuber:
    """Pseudo-Huber distance `sqrt(|D|^2 + c^2) - c`, |D|^2 the sum over the event.

    Not for data of few dimensions, of which it warns; see the module.

    Args:
      c: positive; None for `0.00054 sqrt(dim)` with dim the size of an event.

    Raises:
      ValueError: `c` is not positive.

    Source: Song and Dhariwal 2023, arXiv 2310.14189, section on the metric.
    """

    c: Any = None

    def __post_init__(self) -> None:
        if self.c is not None:
            check_positive("c", self.c, "squared error is distillation.squared")

    def __call__(self, prediction: Array, target: Array, batch_ndim: int) -> Array:
        difference = _difference(prediction, target, batch_ndim)
        dim = _size(difference, batch_ndim)
        _warn_of_few(dim, "the pseudo-Huber distance", "distillation.squared")
        c = 0.00054 * math.sqrt(dim) if self.c is None else self.c
        total = _total(difference, batch_ndim)
        return total / (jnp.sqrt(total + c**2) + c)  # nothing cancels


@register
class Adaptive:
    """Squared error with the weight `1 / (|D|^2 + c)^power`, which is not trained.

    The sum |D|^2 is over the event, of each example alone: the mean of a batch would
    weigh all examples the same. Not for data of few dimensions, of which it warns; see
    the module.

    Args:
      power: at least 0; 0 is the sum of squares, 1 is "scale free".
      c: positive.

    Raises:
      ValueError: a setting is out of bounds.

    Source: Geng et al. 2025, arXiv 2505.13447, section on the loss metric.
    """

    power: Any = 1.0
    c: Any = 1e-2

    def __post_init__(self) -> None:
        inside = lambda power: power >= 0 and is_finite(power)
        check_bound("power", self.power, inside, "at least 0 and finite")
        check_positive("c", self.c)

    def __call__(self, prediction: Array, target: Array, batch_ndim: int) -> Array:
        difference = _difference(prediction, target, batch_ndim)
        if is_traced(self.power) or self.power != 0:
            dim = _size(difference, batch_ndim)
            _warn_of_few(dim, "an adaptive weight", "power=0")
        total = _total(difference, batch_ndim)
        return jax.lax.stop_gradient((total + self.c) ** -self.power) * total


@register
class Normalized:
    """Step of bounded length, `g / (|g| + c)`, |g| the norm over the event.

    In few dimensions it moves the optimum, as the metrics of the module do, and warns.

    Args:
      c: positive.

    Raises:
      ValueError: `c` is not positive.

    Source: Lu and Song 2024, arXiv 2410.11081, tangent normalisation.
    """

    c: Any = 0.1

    def __post_init__(self) -> None:
        check_positive("c", self.c)

    def __call__(self, step: Array, batch_ndim: int) -> Array:
        _warn_of_few(_size(step, batch_ndim), "a normalized step", "the step itself")
        total = _total(step, batch_ndim)
        some = total > 0  # the root has an infinite slope at 0
        norm = jnp.where(some, jnp.sqrt(jnp.where(some, total, 1)), 0)
        return step / (norm + self.c).reshape(
            norm.shape + (1,) * (step.ndim - norm.ndim)
        )


def _difference(prediction: Array, target: Array, batch_ndim: int) -> Array:
    for name, value in (("prediction", prediction), ("target", target)):
        check_float(name, value, "scale it as the data are scaled")
    check_batch_ndim(batch_ndim, np.ndim(prediction))
    predictions.check_same_shape("target", target, "the prediction", prediction)
    return prediction - target


def _total(difference: Array, batch_ndim: int) -> Array:
    """Sums the squares over the event, `[*batch]`."""
    return jnp.sum(difference**2, axis=tuple(range(batch_ndim, difference.ndim)))


def _size(difference: Array, batch_ndim: int) -> int:
    """Counts the values of an event."""
    return math.prod(difference.shape[batch_ndim:])


def _warn_of_few(dim: int, what: str, way_out: str) -> None:
    """Warns where an event has so few values that the optimum is another one."""
    if dim < LEAST_DIM:
        warnings.warn(
            f"{what} on examples of {dim} values: with fewer than {LEAST_DIM} the "
            "network learns a biased result (see "
            f"diffusionflow.distillation.distances); use {way_out}",
            stacklevel=3,
        )
