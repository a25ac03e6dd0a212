"""Computes the weights of predictions in a sample, and of errors in an objective."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from diffusionflow import (
    grids,
    objectives,
    predictions,
    samplers,
    schedules,
    times,
    weightings,
)
from diffusionflow._numeric import in_float64
from diffusionflow.objectives import Objective

TRUNCATED = schedules.Cosine(logsnr_min=-15.0, logsnr_max=15.0)
KINDS: dict[str, predictions.AnyKind] = {
    "x": "x",
    "eps": "eps",
    "v": "v",
    "u": "u",
    "EDM's F": predictions.edm_f(0.5),
}


class ChurnWeights(NamedTuple):
    """A sample as `z_0 = initial z_1 + sum_i h_i v_i` and noise.

    Fields:
      t: of the predictions, falling, `[num_steps]`.
      h: weights of the predictions, `[*slider, num_steps]`; they are negative, since
        v = alpha eps - sigma x.
      initial: weight of the first z, `[*slider]`.
    """

    t: np.ndarray
    h: np.ndarray
    initial: np.ndarray


def churn_weights(
    churn: ArrayLike,
    num_steps: int = 100,
    *,
    schedule: schedules.Schedule = TRUNCATED,
    kind: predictions.AnyKind = "v",
) -> ChurnWeights:
    """Computes the weights of the predictions in a sample of the churn family.

    Args:
      churn: fraction of each step that is undone, in [0, 1], `[*slider]`.
      num_steps: of a uniform grid.
      schedule: any.
      kind: of the predictions.

    Returns:
      `ChurnWeights`.

    Raises:
      ValueError: a churn is outside, or the kind is singular on the grid.

    Source: Gao et al. 2024, "Diffusion Meets Flow Matching", the figure on churn, which
    shows -h.
    """
    grid = grids.uniform(num_steps)
    for value in np.ravel(churn):
        samplers.Churn(float(value))  # refuses what is outside

    def weigh(churn: Array) -> tuple[Any, Any]:
        sampler = samplers.Churn(churn)
        coefficients: Any = samplers.coefficients(
            sampler, grid, schedule=schedule, kind=kind
        )
        return coefficients.h[:, 0], coefficients.initial

    each = jnp.vectorize(weigh, signature="()->(s),()")
    h, initial = in_float64(each, np.asarray(churn, np.float64))
    return ChurnWeights(grid[:-1], h, initial)


def sigmoid(bias: float | Array = 0.0) -> Objective:
    """Makes the objective with flow matching's times and `W = sigmoid(bias - l)`."""
    weighting = weightings.Sigmoid(bias)
    return Objective(schedules.FlowMatching(), "u", weighting, times.Uniform())


def edm(mean: float | Array = -1.2, std: float | Array = 1.2) -> Objective:
    """Makes EDM's objective on a schedule that reaches every log-SNR.

    Its total weight does not depend on the schedule.
    """
    recipe = objectives.edm(mean=mean, std=std)
    return dataclasses.replace(recipe, schedule=schedules.FlowMatching())


def recipes() -> dict[str, Objective]:
    """Names the objectives of the published figure."""
    return {
        "flow matching": objectives.flow_matching(),
        "v, cosine schedule": objectives.v_cosine(),
        "EDM": edm(),
        "SD3": objectives.sd3(),
        "sigmoid(-logsnr)": sigmoid(),
    }


def weightings_on_one_axis(
    logsnr: np.ndarray, objectives_by_name: dict[str, Objective] | None = None
) -> dict[str, np.ndarray]:
    """Computes total weights on the eps-MSE, each divided by its maximum on `logsnr`.

    Args:
      logsnr: `[n]`, reached by the schedule of each.
      objectives_by_name: those of `recipes` by default.

    Returns:
      Name to weights, `[n]` each, NumPy float64.
    """
    given = recipes() if objectives_by_name is None else objectives_by_name
    weigh = lambda each: in_float64(objectives.total_weight, each, logsnr)
    return {name: over_maximum(weigh(each)) for name, each in given.items()}


def over_maximum(weight: np.ndarray) -> np.ndarray:
    """Divides each row by its maximum, `[..., n]`."""
    return weight / weight.max(-1, keepdims=True)


class Moved(NamedTuple):
    """Recipes under a change of parameters, NumPy float64.

    Fields:
      total: weight on the eps-MSE, `[*slider, n]`.
      density: of the log-SNR of a training example, `[*slider, n]`.
      median: of that log-SNR, `[*slider]`.
    """

    total: np.ndarray
    density: np.ndarray
    median: np.ndarray


def moved(
    objective_fn: Callable[..., Objective], logsnr: np.ndarray, *parameters: ArrayLike
) -> Moved:
    """Computes total weights and training times as the parameters of a recipe change.

    Args:
      objective_fn: from a number of each of the parameters to an objective.
      logsnr: `[n]`, reached by its schedule.
      *parameters: `[*slider]` each, broadcast against each other.

    Returns:
      `Moved`.
    """

    def measure(*parameters: Array) -> tuple[Array, Array, Array]:
        objective = objective_fn(*parameters)
        unweighted = dataclasses.replace(objective, weighting=weightings.Mse("eps"))
        weigh = lambda each: objectives.total_weight(each, logsnr)
        middle = objective.times.quantile(0.5, schedule=objective.schedule)
        median = objective.schedule.logsnr(middle)
        return weigh(objective), weigh(unweighted), median

    signature = ",".join("()" for _ in parameters) + "->(n),(n),()"
    each = jnp.vectorize(measure, signature=signature)
    return Moved(
        *in_float64(each, *(np.asarray(one, np.float64) for one in parameters))
    )


def mse_ratios(
    logsnr: np.ndarray, *, schedule: schedules.Schedule | None = None
) -> dict[str, np.ndarray]:
    """Computes squared errors of network outputs over that of eps, at the same z.

    Args:
      logsnr: `[n]`, reached by the schedule.
      schedule: the cosine schedule by default; of u, x and F the ratio knows the
        log-SNR alone.

    Returns:
      Name to ratio, `[n]` each, NumPy float64.
    """
    schedule = schedules.Cosine() if schedule is None else schedule

    def ratio(schedule: schedules.Schedule, logsnr: Array, kind: Any) -> Array:
        t = schedule.inverse_logsnr(logsnr)
        return predictions.mse_ratio(kind, t, schedule=schedule)

    return {
        name: in_float64(ratio, schedule, logsnr, kind) for name, kind in KINDS.items()
    }
