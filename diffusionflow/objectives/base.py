"""Objectives, their total weight, and whether two of them are equivalent."""

import math
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from diffusionflow import _xp as xp
from diffusionflow import times, weightings
from diffusionflow._dataclass import check_count, check_instance, is_traced, register
from diffusionflow._numeric import floating, in_float64, in_type_of
from diffusionflow.predictions import as_kind

_EXAMPLES = dict(
    schedule="schedules.FlowMatching()",
    weighting='weightings.Mse("u")',
    times="times.Uniform()",
    proposal="times.AdaptiveTimes(times.Uniform())",
)


@register
class Objective:
    """Training objective: schedule, prediction type, weighting and time distribution.

    Args:
      schedule: the noise schedule.
      kind: prediction type of the network.
      weighting: factor on the squared error of the weighting's own kind.
      times: density of training times that belongs to the objective.
      proposal: density that times are sampled from; None for `times`. The importance
        weight `times.density / proposal.density` leaves the mean of the loss unchanged
        if the proposal draws from all of `times` (see `check_support`).

    Raises:
      ValueError: the kind is unknown, the times are adaptive, or the weighting is made
        for other times (`weightings.Monotone`). Densities are compared where their
        numbers are Python numbers.
    """

    schedule: Any
    kind: Any
    weighting: Any
    times: Any
    proposal: Any = None

    def __post_init__(self) -> None:
        for name, example in _EXAMPLES.items():
            check_instance(name, getattr(self, name), example)
        object.__setattr__(self, "kind", as_kind(self.kind))
        if times.adaptive_part(self.times) is not None:
            raise ValueError(
                f"times={self.times!r}: the objective would change while it is "
                "trained; an adaptive density belongs in proposal"
            )
        made_for = getattr(self.weighting, "times", self.times)
        if _differ(made_for, self.times):
            raise ValueError(
                f"times={self.times!r}: {type(self.weighting).__name__} is made for "
                f"times={made_for!r}; give both the same density"
            )


def total_weight(objective: Objective, logsnr: ArrayLike) -> Array:
    """Computes total weight `W = w(t) (D / alpha)^2 p(t) / |dlogsnr/dt|` on eps-MSE.

    `w` is the weighting, `(D / alpha)^2` the error ratio of its kind to eps, `p` the
    density of times; t is the time of `logsnr`. Not normalised: for flow matching it is
    `e^(-logsnr / 2) / 2`, whose integral is infinite.

    Args:
      objective: any.
      logsnr: any shape, inside the range of the schedule.

    Returns:
      An array of the shape of `logsnr`; 0 where the objective has no times.

    Raises:
      ValueError: a log-SNR that the schedule does not reach. Traced values cannot be
        checked and pass.

    Example:
      >>> from diffusionflow import objectives
      >>> weight = total_weight(objectives.flow_matching(), [-2.0, 0.0, 2.0])
      >>> print(weight.round(4))  # e^(-logsnr / 2) / 2
      [1.3591 0.5    0.1839]
    """
    check_instance("objective", objective, "objectives.flow_matching()")
    logsnr = floating(logsnr)
    if not is_traced(logsnr) and logsnr.size:
        values = np.asarray(logsnr)  # inside jit JAX would trace the reduction
        ends = values.min(), values.max()
        times.check_reached(*ends, schedule=objective.schedule)
    weight = in_float64(_total_weight, objective, logsnr)
    return in_type_of(logsnr, [weight])[0]


def _total_weight(objective: Objective, logsnr: Array) -> Array:
    schedule = objective.schedule
    t = xp.clip(schedule.inverse_logsnr(logsnr), 0, 1)
    return weightings.weight_on_eps(
        objective.weighting, objective.times, t, schedule=schedule
    )


class Comparison(NamedTuple):
    """How the total weights of two objectives compare on a range of log-SNR.

    Fields:
      same: whether their ratio is constant to 1e-6, where either is not 0.
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
    """Returns whether two objectives have the same total weight up to a constant.

    Args:
      a: an objective, concrete.
      b: another.
      logsnr_range: where they are compared. Times in float64 distinguish log-SNRs
        down to about -45 on flow matching and the cosine schedule.
      num_points: log-SNRs compared, evenly spaced, at least 2.

    Returns:
      `Comparison`, computed in float64.

    Raises:
      ValueError: fewer than two points, or a range that is empty, infinite, or not
        reached by one of the schedules.

    Example:
      >>> from diffusionflow import objectives
      >>> same = same_objective(objectives.flow_matching(), objectives.v_cosine())
      >>> same.same, round(same.constant, 6)
      (True, 1.570796)
      >>> same_objective(objectives.flow_matching(), objectives.sd3()).same
      False
    """
    check_count("num_points", num_points, 2)
    low, high = map(float, logsnr_range)
    if not -math.inf < low < high < math.inf:
        raise ValueError(
            f"logsnr_range={logsnr_range!r}: must be finite and rise; choose a range "
            "that both schedules reach"
        )
    for which in (a, b):
        check_instance("objective", which, "objectives.flow_matching()")
        times.check_reached(low, high, schedule=which.schedule)
    logsnr = np.linspace(low, high, num_points)
    ours, theirs = (in_float64(_total_weight, which, logsnr) for which in (a, b))
    either = (ours != 0) | (theirs != 0)  # where neither learns they agree
    if not either.any():
        return Comparison(True, float("nan"), 0.0, float(logsnr[0]))
    logsnr, ours, theirs = logsnr[either], ours[either], theirs[either]
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = ours / theirs
        good = np.isfinite(ratio) & (ratio > 0)
        constant = float(np.median(ratio[good])) if good.any() else float("nan")
        error = np.where(good, np.abs(ratio / constant - 1), np.inf)
    worst = int(np.argmax(error))
    deviation = float(error[worst])
    return Comparison(deviation < 1e-6, constant, deviation, float(logsnr[worst]))


def check_support(objective: Objective, num_points: int = 1023) -> None:
    """Checks that the support of the proposal covers the times of the objective.

    Times that the proposal never draws would be left out, which changes the objective.

    Args:
      objective: any. Traced values cannot be checked and pass.
      num_points: times checked, evenly spaced inside (0, 1).

    Raises:
      ValueError: it does not; names both densities and a time that is missed.
    """
    if objective.proposal is None or is_traced(objective):
        return
    t = np.arange(1, num_points + 1) / (num_points + 1)
    densities = lambda objective, t: tuple(
        density.density(t, schedule=objective.schedule)
        for density in (objective.times, objective.proposal)
    )
    wanted, offered = in_float64(densities, objective, t)
    missed = (wanted > 0) & ~(offered > 0)
    if missed.any():
        raise ValueError(
            f"proposal {objective.proposal} never draws t={t[missed][0]:.4g}, which "
            f"belongs to the objective's times {objective.times}; widen the proposal, "
            "or restrict the times"
        )


def _differ(a: Any, b: Any) -> bool:
    """Returns whether two densities are known to differ, stratified or not."""
    a, b = (one.base if isinstance(one, times.Stratified) else one for one in (a, b))
    numbers = all(
        isinstance(leaf, (int, float)) for leaf in jax.tree.leaves((a, b))
    )  # trees of gradients, axes and the like are objectives by shape alone
    return numbers and a != b
