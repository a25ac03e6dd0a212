"""Consistency losses: a map by its values at two times of one path."""

from typing import Any

import jax
from jax import Array
from jax.typing import ArrayLike

from diffusionflow import predictions
from diffusionflow._dataclass import register
from diffusionflow.distillation.distances import Metric, squared
from diffusionflow.distillation.jumps import TwoTimeFn, jump
from diffusionflow.distillation.losses import WeightFn, weighted
from diffusionflow.distillation.residuals import as_arrays
from diffusionflow.predictions import AnyKind
from diffusionflow.schedules import Schedule


def consistency_loss(
    predict_fn: TwoTimeFn,
    z_t: Array,
    t: Array,
    z_l: Array,
    l: Array,  # noqa: E741
    s: ArrayLike = 0.0,
    *,
    target_fn: TwoTimeFn | None = None,
    kind: AnyKind,
    schedule: Schedule,
    metric: Metric = squared,
    weight_fn: WeightFn | None = None,
) -> Array:
    """Trains a map by its values along a path: `metric(f(z_t), stop_gradient(f(z_l)))`.

    `f(z, t) = Phi_{t->s}(z)`, the jump with `predict_fn(z, t, s)`: s = 0 is a
    consistency model, and `f(z, s) = z` holds by construction. Consistency training
    takes `z_l = alpha_l x + sigma_l eps` of the pair of z_t, never `z_t + (l - t) w`,
    which leaves a curved path; distillation takes `solver_step` of a teacher. Networks
    with dropout need one mask for both.

    Args:
      predict_fn: `(z, t, s) -> prediction` of `kind`.
      z_t: noised data at t, `[*batch, *event]`.
      t: times, `[*batch]`.
      z_l: noised data at l, like `z_t`.
      l: earlier times, like `t`, such as from `level_pairs` or `ect_partner`.
      s: times to jump to, scalar or like `t`.
      target_fn: the map of the target, such as that of averaged parameters; None for
        `predict_fn` as it is.
      kind: prediction type of both.
      schedule: any.
      metric: `squared`, or `PseudoHuber()` in many dimensions.
      weight_fn: `(t, l) -> [*batch]`, such as `InverseGap(schedule)`; None for 1.

    Returns:
      `[*batch]`.

    Raises:
      ValueError: as `jump_coefficients`, or shapes disagree.

    Source: Song et al. 2023, arXiv 2303.01469, algorithms 2 and 3, for any kind and
    schedule; s > 0 as in Kim et al. 2023, arXiv 2310.02279.
    """
    predictions.check_same_shape("z_l", z_l, "z_t", z_t)
    z_t, t, s = as_arrays(z_t, t, s)
    z_l, l, _ = as_arrays(z_l, l, s)  # noqa: E741
    settings: Any = dict(s=s, kind=kind, schedule=schedule)
    other = predict_fn if target_fn is None else target_fn
    lands = jump(predict_fn(z_t, t, s), z=z_t, t=t, **settings)
    target = jump(other(z_l, l, s), z=z_l, t=l, **settings)
    loss = metric(lands, jax.lax.stop_gradient(target), t.ndim)
    return weighted(loss, weight_fn, t, l)


@register
class InverseGap:
    """Weight `1 / (rho_t - rho_l)` of a pair of times, `rho = sigma / alpha`.

    Args:
      schedule: any; rho is EDM's sigma on its own schedule.

    Source: Song and Dhariwal 2023, arXiv 2310.14189, weighting function; Geng et al.
    2024, arXiv 2406.14548.
    """

    schedule: Any

    def __call__(self, t: Array, l: Array) -> Array:  # noqa: E741
        """Computes the weight, of the shape of both; 0 where alpha_t is 0."""
        alpha_t, alpha_l = self.schedule.alpha(t), self.schedule.alpha(l)
        sigma_t, sigma_l = self.schedule.sigma(t), self.schedule.sigma(l)
        return alpha_t * alpha_l / (sigma_t * alpha_l - sigma_l * alpha_t)
