"""Guidance whose strength depends on the log-SNR."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from diffusionflow._dataclass import as_callable, check_below, register
from diffusionflow._numeric import at_least_float32
from diffusionflow.guidance.base import Guided, Wrapper, check_guided
from diffusionflow.predictions import Denoised, as_denoiser
from diffusionflow.schedules import Schedule


@register
class Interval:
    """The weight 1 for `logsnr_min <= logsnr < logsnr_max`, and 0 elsewhere.

    Args:
      logsnr_min: the noisy bound.
      logsnr_max: the clean bound.

    Raises:
      ValueError: the interval is empty.
    """

    logsnr_min: Any = -jnp.inf
    logsnr_max: Any = jnp.inf

    def __post_init__(self) -> None:
        check_below("logsnr_min", self.logsnr_min, "logsnr_max", self.logsnr_max)

    def __call__(self, logsnr: Array) -> Array:
        low, high = (
            at_least_float32(bound).astype(logsnr.dtype)
            for bound in (self.logsnr_min, self.logsnr_max)
        )
        return ((low <= logsnr) & (logsnr < high)).astype(logsnr.dtype)


@register
class Weighted(Wrapper):
    """See `weighted`."""

    guided: Any
    schedule: Any
    weight_fn: Any

    def weight(self, t: ArrayLike) -> Array:
        """Computes the weight at times `t`, of any shape."""
        logsnr = at_least_float32(self.schedule.logsnr(t))
        weight = jnp.asarray(self.weight_fn(logsnr), logsnr.dtype)
        return jnp.broadcast_to(weight, logsnr.shape)

    def num_network_calls(self, t: ArrayLike) -> int | Array | None:
        less = self.guided.positive_fn.num_network_calls(t)
        more = self.guided.negative_fn.num_network_calls(t)
        if less is None or more is None:
            return None
        return less + jnp.where(jnp.any(self.weight(t) != 0), more, 0)

    def both(self, z: Array, t: ArrayLike) -> tuple[Denoised, Denoised]:
        """Returns the guided result, and the positive one that it comes from."""
        positive, weight = self.guided.positive_fn(z, t), self.weight(t)
        inside = weight != 0

        def guided() -> Denoised:
            negative = self.guided.negative_fn(z, t)
            mixed = self.guided.mix(positive, negative, t, weight)
            choose = lambda a, b: jnp.where(_per_place(inside, a), a, b)
            return jax.tree.map(choose, mixed, positive)

        return jax.lax.cond(jnp.any(inside), guided, lambda: positive), positive

    def denoise(self, z: Array, t: Array) -> Denoised:
        return self.both(z, t)[0]


def weighted(
    guided: Guided, *, schedule: Schedule, weight_fn: Callable[[Array], ArrayLike]
) -> Weighted:
    """Weights guidance by any function of the log-SNR.

    A guidance scale s becomes `1 + w (s - 1)` with `w = weight_fn(logsnr_t)`: w = 1 is
    the guidance itself and w = 0 the positive denoiser, bit for bit. There the other
    network does not run: its call is a branch of `lax.cond`, and
    `num_network_calls(t)`, hence the `nfe` of samplers, leaves it out. A function of
    the log-SNR means the same on every schedule. (With times `[*batch]` the network
    runs for all where one needs it; under `vmap` over times both branches run.)

    Args:
      guided: by two denoisers, such as from `classifier_free`.
      schedule: the one that t belongs to.
      weight_fn: elementwise function of the log-SNR, which is infinite at sigma = 0 and
        alpha = 0; a registered callable, or each function is another program.

    Returns:
      A registered callable `(z, t) -> Denoised`.

    Raises:
      ValueError: `guided` is something else.

    Source: Kynkaanniemi et al. 2024, arXiv 2404.07724, for a weight of 0 and 1; Wang et
    al. 2024, arXiv 2404.13040, for weights that grow or fall along the path.

    Example: guidance that grows towards the data.
      >>> from diffusionflow import analytic, guidance, schedules
      >>> flow = schedules.FlowMatching()
      >>> one, other = (
      ...     analytic.gaussian(jnp.full(1, mean), 1.0).denoise_fn(schedule=flow)
      ...     for mean in (1.0, 0.0)
      ... )
      >>> plain = guidance.classifier_free(one, other, scale=3.0)
      >>> growing = weighted(plain, schedule=flow, weight_fn=jax.nn.sigmoid)
      >>> growing.weight(jnp.array([1.0, 0.5, 0.0])).tolist()
      [0.0, 0.5, 1.0]
    """
    check_guided("weighted", guided)
    as_denoiser(guided, schedule=schedule)
    return Weighted(guided, schedule, as_callable(weight_fn))


def limited(
    guided: Guided,
    *,
    schedule: Schedule,
    logsnr_min: ArrayLike = -jnp.inf,
    logsnr_max: ArrayLike = jnp.inf,
) -> Weighted:
    """Limits guidance to `logsnr_min <= logsnr_t < logsnr_max`; scale 1 elsewhere.

    `weighted` by 1 inside and 0 elsewhere, where the positive denoiser is the result,
    bit for bit, and the other network does not run.

    Args:
      guided: by two denoisers, such as from `classifier_free`.
      schedule: the one that t belongs to.
      logsnr_min: the noisy bound.
      logsnr_max: the clean bound.

    Returns:
      A registered callable `(z, t) -> Denoised`.

    Raises:
      ValueError: `guided` is something else, or the interval is empty.

    Source: Kynkaanniemi et al. 2024, arXiv 2404.07724, there an interval of sigma for
    alpha = 1: `logsnr = -2 log(sigma)`.
    """
    check_guided("limited", guided)
    interval = Interval(logsnr_min, logsnr_max)
    return weighted(guided, schedule=schedule, weight_fn=interval)


def _per_place(inside: Array, like: Array) -> Array:
    """Reshapes booleans `()` or `[*batch]` to choose between arrays of `like`."""
    return inside.reshape(inside.shape + (1,) * (like.ndim - inside.ndim))
