"""Guidance by two denoisers with projections: APG and CFG-Zero*.

Both are nonlinear in the predictions, so that, in contrast to plain guidance, it
matters in which of them they project: APG in x, CFG-Zero* in what the ODE integrates.
"""

from typing import Any

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from diffusionflow import predictions
from diffusionflow._dataclass import (
    check_bound,
    check_count,
    check_finite,
    register,
    static,
)
from diffusionflow._numeric import at_least_float32, root
from diffusionflow.guidance.base import (
    Guided,
    at_positive,
    event_axes,
    weighted_scale,
    with_change,
    with_x,
)
from diffusionflow.predictions import (
    AnyKind,
    Denoised,
    DenoiseFn,
    as_denoiser,
    per_event,
)
from diffusionflow.schedules import Schedule


@register
class Projected(Guided):
    """See `projected`."""

    positive_fn: Any
    negative_fn: Any
    scale: Any
    schedule: Any
    parallel: Any
    norm_limit: Any
    batch_ndim: int = static()

    def __post_init__(self) -> None:
        check_finite("scale", self.scale)
        check_finite("parallel", self.parallel)
        positive = lambda limit: limit > 0
        check_bound("norm_limit", self.norm_limit, positive, "positive")

    def mix(
        self,
        positive: Denoised,
        negative: Denoised,
        t: ArrayLike,
        weight: Array | None = None,
    ) -> Denoised:
        x, axes = positive.x, event_axes(positive.x, self.batch_ndim)
        parallel, limit = (
            per_event(at_least_float32(getattr(self, name)), x, name)
            for name in ("parallel", "norm_limit")
        )
        update = x - negative.x
        norm = root(jnp.sum(update**2, axis=axes, keepdims=True))
        shorter = norm > limit
        update = update * jnp.where(shorter, limit / jnp.where(shorter, norm, 1), 1)
        update = update - (1 - parallel) * _along(update, x, axes)
        scale = weighted_scale(self.scale, weight, x)
        return with_x(positive, x + (scale - 1) * update, t, self.schedule)


def projected(
    conditional_fn: DenoiseFn,
    unconditional_fn: DenoiseFn,
    *,
    schedule: Schedule,
    scale: ArrayLike,
    parallel: ArrayLike = 0.0,
    norm_limit: ArrayLike = jnp.inf,
    batch_ndim: int = 1,
) -> Projected:
    """Applies adaptive projected guidance (APG): without the part that saturates.

    Of the update `d = cond - uncond` in x_hat, shortened to `norm_limit`, the part
    along the conditional x_hat, which makes contrast, is multiplied by `parallel`:

        x_hat = cond + (scale - 1) (d_orthogonal + parallel d_parallel),

    and eps_hat follows from z. Scale 1 is the conditional denoiser, bit for bit;
    `parallel = 1` without a limit is `classifier_free`, to rounding.

    The reverse momentum of the source is left out: it is a sum over the steps before,
    and a denoiser has no memory of them.

    Args:
      conditional_fn: `(z, t) -> Denoised` given the condition.
      unconditional_fn: the same without it.
      schedule: the one that t belongs to.
      scale: scalar, or `[*batch]`; 10 and more are usual.
      parallel: factor of the part along the conditional x_hat, 0 to 1 (eta in the
        source); scalar or `[*batch]`.
      norm_limit: largest Euclidean norm of d over an example (r in the source; 2.5 to
        15 there); scalar or `[*batch]`.
      batch_ndim: number of leading batch axes; 0 for one example, as under `vmap`.

    Returns:
      A registered callable `(z, t) -> Denoised`; its network calls are those of both.

    Raises:
      ValueError: `norm_limit` is not positive, another number is not finite, or a
        denoiser is of another schedule.

    Source: Sadat et al. 2024, arXiv 2410.02416, algorithm 1.
    """
    check_count("batch_ndim", batch_ndim, 0)
    positive_fn, negative_fn = (
        as_denoiser(fn, schedule=schedule) for fn in (conditional_fn, unconditional_fn)
    )
    return Projected(
        positive_fn, negative_fn, scale, schedule, parallel, norm_limit, batch_ndim
    )


@register
class ScaledNegative(Guided):
    """See `zero_star`."""

    positive_fn: Any
    negative_fn: Any
    scale: Any
    kind: Any
    schedule: Any
    zero_from: Any
    batch_ndim: int = static()

    def __post_init__(self) -> None:
        check_finite("scale", self.scale)
        inside = lambda time: 0 < time <= 1 or time == float("inf")
        check_bound("zero_from", self.zero_from, inside, "in (0, 1], or infinite")

    def check_times(self, t: ArrayLike) -> None:
        super().check_times(t)
        predictions.check_determined(self.kind, t, schedule=self.schedule)

    def mix(
        self,
        positive: Denoised,
        negative: Denoised,
        t: ArrayLike,
        weight: Array | None = None,
    ) -> Denoised:
        settings = dict(kind=self.kind, t=t, schedule=self.schedule)
        toward, away = (
            predictions.from_denoised(part, **settings) for part in (positive, negative)
        )
        away = _along(toward, away, event_axes(toward, self.batch_ndim))
        change = (weighted_scale(self.scale, weight, toward) - 1) * (toward - away)
        zero = jnp.asarray(t) >= at_least_float32(self.zero_from)
        zero = per_event(zero, toward).astype(bool)
        change = jnp.where(zero, -toward, change)
        return with_change(positive, change, **settings)


def zero_star(
    conditional_fn: DenoiseFn,
    unconditional_fn: DenoiseFn,
    *,
    schedule: Schedule,
    scale: ArrayLike,
    kind: AnyKind = "u",
    zero_from: ArrayLike = jnp.inf,
    batch_ndim: int = 1,
) -> ScaledNegative:
    """Applies CFG-Zero*: guides away from the unconditional prediction, scaled to fit.

    With predictions c and n of the two in `kind`,

        p = s n + scale (c - s n),    s = <c, n> / <n, n>

    over each example: s n is the multiple of n that is nearest to c. The result is
    converted to x and eps at the same z. Scale 1 is the conditional denoiser, bit for
    bit; where n is a multiple of c, every scale gives the conditional denoiser, to
    rounding.

    Args:
      conditional_fn: `(z, t) -> Denoised` given the condition.
      unconditional_fn: the same without it.
      schedule: the one that t belongs to.
      scale: scalar, or `[*batch]`.
      kind: prediction type in which s is computed; the source takes "u", for flow
        matching.
      zero_from: where `t >= zero_from` the prediction p is 0, and solvers in `kind`
        stand still ("zero-init"). On a grid from 1, 1.0 is the first step, which the
        source leaves out; by default nothing is. The networks run all the same.
      batch_ndim: number of leading batch axes; 0 for one example, as under `vmap`.

    Returns:
      A registered callable `(z, t) -> Denoised`; its network calls are those of both.

    Raises:
      ValueError: a setting is out of bounds, the kind is unknown, or a denoiser is of
        another schedule.

    Source: Fan et al. 2025, arXiv 2503.18886.
    """
    check_count("batch_ndim", batch_ndim, 0)
    positive_fn, negative_fn = (
        as_denoiser(fn, schedule=schedule) for fn in (conditional_fn, unconditional_fn)
    )
    kind = predictions.as_kind(kind)
    return ScaledNegative(
        positive_fn, negative_fn, scale, kind, schedule, zero_from, batch_ndim
    )


def _along(value: Array, direction: Array, axes: tuple[int, ...]) -> Array:
    """Computes the part of `value` along `direction`, 0 where that is 0."""
    dot = lambda a, b: jnp.sum(a * b, axis=axes, keepdims=True)
    # of unit length first: the fourth power of a small norm would underflow
    unit = at_positive(direction, root(dot(direction, direction)))
    return dot(value, unit) * unit
