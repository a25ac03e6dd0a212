"""What is learned: a weighting of a squared error times a density of times.

Every Gaussian objective is `1/2 int W(logsnr) E ||eps_hat - eps||^2 dlogsnr` up to a
constant. `W`, the total weight, is all that two recipes can differ in; the schedule,
the network's output and the proposal change how it is estimated.

Source: Kingma and Gao 2023, arXiv 2303.00848.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from diffusionflow import predictions, schedules, times, weightings
from diffusionflow._dataclass import check_bound, register
from diffusionflow._numeric import in_float64
from diffusionflow.predictions import as_kind


@register
class Objective:
    """A training objective.

    Args:
      schedule: the noise schedule.
      kind: what the network predicts.
      weighting: factor on the squared error of the weighting's own kind.
      times: density of training times that belongs to the objective.
      proposal: density that times are drawn from; None for `times`. The importance
        weight `times.density / proposal.density` leaves the mean of the loss unchanged.

    Raises:
      ValueError: the kind is unknown.
    """

    schedule: Any
    kind: Any
    weighting: Any
    times: Any
    proposal: Any = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "kind", as_kind(self.kind))


def total_weight(objective: Objective, logsnr: ArrayLike) -> Array:
    """`W(logsnr) = w(t) (D / alpha)^2 p(t) / |dlogsnr/dt|` on the eps error.

    `w` is the weighting, `(D / alpha)^2` the error ratio of its kind to eps, `p` the
    density of times; t is the time of `logsnr`. Not normalised: for flow matching it is
    `e^(-logsnr / 2) / 2`, whose integral is infinite.

    Args:
      objective: any.
      logsnr: any shape, inside the range of the schedule.

    Returns:
      An array of the shape of `logsnr`.
    """
    schedule, weighting = objective.schedule, objective.weighting
    t = schedule.inverse_logsnr(logsnr)
    ratio = predictions.mse_ratio(weighting.kind, t, schedule=schedule)
    density = objective.times.density(t, schedule)
    slope = jnp.abs(schedules.dlogsnr_dt(schedule, t))
    return weighting(t, schedule) * ratio * density / slope


class Comparison(NamedTuple):
    """How the total weights of two objectives compare on a range of log-SNR.

    Fields:
      same: whether their ratio is constant to 1e-6.
      constant: median of `W_a / W_b`.
      deviation: largest `|W_a / (constant W_b) - 1|`.
      logsnr: where that is.
    """

    same: bool
    constant: float
    deviation: float
    logsnr: float


def same_objective(
    a: Objective,
    b: Objective,
    logsnr_range: tuple[float, float] = (-10.0, 10.0),
    num_points: int = 1001,
) -> Comparison:
    """Whether two objectives have the same total weight up to a constant.

    Args:
      a: an objective, concrete.
      b: another.
      logsnr_range: where they are compared.
      num_points: log-SNRs compared, evenly spaced, at least 2.

    Returns:
      `Comparison`, computed in float64.

    Raises:
      ValueError: fewer than two points.
    """
    check_bound("num_points", num_points, lambda n: n >= 2, "at least 2")
    logsnr = np.linspace(*logsnr_range, num_points)
    ratio = in_float64(total_weight, a, logsnr) / in_float64(total_weight, b, logsnr)
    constant = float(np.median(ratio))
    error = np.abs(ratio / constant - 1)
    error = np.where(np.isfinite(error), error, np.inf)
    worst = int(np.argmax(error))
    deviation = float(error[worst])
    return Comparison(deviation < 1e-6, constant, deviation, float(logsnr[worst]))


def flow_matching() -> Objective:
    """`E_t ||u_hat - (eps - x)||^2`, t uniform: `W = e^(-logsnr / 2) / 2`.

    Source: Lipman et al. 2022, arXiv 2210.02747, eq. 23 with sigma_min = 0.
    """
    return Objective(
        schedules.FlowMatching(), "u", weightings.Mse("u"), times.Uniform()
    )


def v_cosine() -> Objective:
    """`E_t ||v_hat - v||^2` on the cosine schedule: flow matching times 2 / pi.

    Source: Salimans and Ho 2022, arXiv 2202.00512.
    """
    return Objective(schedules.Cosine(), "v", weightings.Mse("v"), times.Uniform())


def ddpm() -> Objective:
    """`E_t ||eps_hat - eps||^2`: L_simple in continuous time, linear-beta schedule.

    Source: Ho et al. 2020, arXiv 2006.11239, eq. 14; the discrete times 1..T of the
    paper become t uniform on (0, 1).
    """
    return Objective(
        schedules.LinearBeta(), "eps", weightings.Mse("eps"), times.Uniform()
    )
