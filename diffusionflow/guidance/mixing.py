"""Guidance by two denoisers: extrapolated, and rescaled."""

from typing import Any

import jax
from jax import Array
from jax.typing import ArrayLike

from diffusionflow import predictions
from diffusionflow._dataclass import check_count, check_finite, register, static
from diffusionflow._numeric import at_least_float32, root
from diffusionflow.guidance.base import (
    Guided,
    Wrapper,
    at_positive,
    event_axes,
    weighted_scale,
    with_change,
)
from diffusionflow.guidance.weights import Weighted
from diffusionflow.predictions import (
    AnyKind,
    Denoised,
    DenoiseFn,
    as_denoiser,
    per_event,
)
from diffusionflow.schedules import Schedule


@register
class Extrapolated(Guided):
    """Extrapolation `negative + scale (positive - negative)`. See `classifier_free`."""

    positive_fn: Any
    negative_fn: Any
    scale: Any

    def __post_init__(self) -> None:
        check_finite("scale", self.scale)

    def mix(
        self,
        positive: Denoised,
        negative: Denoised,
        t: ArrayLike,
        weight: Array | None = None,
    ) -> Denoised:
        del t
        scale = weighted_scale(self.scale, weight, positive.x)
        # Equal to negative + scale (positive - negative), and exact at scale 0 and 1.
        mix = lambda toward, away: scale * toward + (1 - scale) * away
        return jax.tree.map(mix, positive, negative)


def classifier_free(
    conditional_fn: DenoiseFn, unconditional_fn: DenoiseFn, *, scale: ArrayLike
) -> Extrapolated:
    """Applies classifier-free guidance: `uncond + scale (cond - uncond)`.

    Scale 0 is exactly the unconditional denoiser, 1 exactly the conditional one, more
    than 1 exaggerates the condition. (Sources that write `(1 + w) cond - w uncond` have
    `scale = from_weight(w)`.) x and eps are mixed alike, and every prediction type is
    linear in them at fixed z, so the type that the network predicts does not matter.
    A negative prompt takes the place of the missing condition.

    Args:
      conditional_fn: `(z, t) -> Denoised` given the condition.
      unconditional_fn: the same without it.
      scale: scalar, or `[*batch]`: one for each example.

    Returns:
      A registered callable `(z, t) -> Denoised`; its network calls are those of both.

    Raises:
      ValueError: `scale` is not finite.

    Source: Ho and Salimans 2022, arXiv 2207.12598, eq. 6 with w = scale - 1.

    Example:
      >>> import jax.numpy as jnp
      >>> from diffusionflow import schedules
      >>> settings = dict(kind="x", schedule=schedules.FlowMatching())
      >>> cond = predictions.denoiser(lambda z, t: 0 * z + 1, **settings)
      >>> uncond = predictions.denoiser(lambda z, t: 0 * z, **settings)
      >>> guided = classifier_free(cond, uncond, scale=3.0)
      >>> print(guided(jnp.zeros(2), 0.5).x, guided.num_network_calls(0.5))
      [3. 3.] 2
    """
    pair = as_denoiser(conditional_fn), as_denoiser(unconditional_fn)
    return Extrapolated(*pair, scale)


def autoguidance(
    denoise_fn: DenoiseFn, weaker_fn: DenoiseFn, *, scale: ArrayLike
) -> Extrapolated:
    """Applies autoguidance, `weaker + scale (denoise - weaker)`: away from a worse net.

    Both are given the same condition, if any; the weaker one is smaller or trained for
    a shorter time, for the same task and with the same corruptions.

    Args:
      denoise_fn: `(z, t) -> Denoised`, the good one.
      weaker_fn: the same of the weaker network.
      scale: scalar or `[*batch]`; 1 is the good one alone.

    Returns:
      As `classifier_free`.

    Raises:
      ValueError: `scale` is not finite.

    Source: Karras et al. 2024, arXiv 2406.02507.
    """
    return Extrapolated(as_denoiser(denoise_fn), as_denoiser(weaker_fn), scale)


def from_weight(w: ArrayLike) -> ArrayLike:
    """Returns `1 + w`, the scale of sources that write `(1 + w) cond - w uncond`.

    Args:
      w: their weight, any shape.
    """
    return 1 + w


@register
class Rescaled(Wrapper):
    """See `rescale`."""

    guided: Any
    kind: Any
    schedule: Any
    strength: Any
    batch_ndim: int = static()

    def __post_init__(self) -> None:
        check_finite("strength", self.strength)

    def check_times(self, t: ArrayLike) -> None:
        super().check_times(t)
        predictions.check_determined(self.kind, t, schedule=self.schedule)

    def denoise(self, z: Array, t: Array) -> Denoised:
        guided, positive = self.guided.both(z, t)
        axes = event_axes(guided.x, self.batch_ndim)
        settings = dict(kind=self.kind, t=t, schedule=self.schedule)
        value, wanted = (
            predictions.from_denoised(denoised, **settings)
            for denoised in (guided, positive)
        )
        spread, target = (_std(array, axes) for array in (value, wanted))
        strength = per_event(at_least_float32(self.strength), value, "strength")
        change = strength * at_positive(target - spread, spread) * value
        return with_change(guided, change, **settings)


def rescale(
    guided: Guided | Weighted,
    *,
    kind: AnyKind,
    schedule: Schedule,
    strength: ArrayLike = 0.7,
    batch_ndim: int = 1,
) -> Rescaled:
    """Gives a guided prediction p the standard deviation of the positive one, q.

    `p <- p (1 + strength (std(q) / std(p) - 1))`, with the standard deviations over one
    example. In contrast to guidance itself this depends on the prediction type: x, v
    and eps of the same prediction differ in their standard deviations. The result is
    converted to x and eps at the same z. It costs no NFE beyond those of `guided`.

    Args:
      guided: by two denoisers, such as from `classifier_free` or `limited`.
      kind: prediction type of p and q. The source takes the output of its network,
        which is "v".
      schedule: the one that t belongs to.
      strength: 0 changes nothing, 1 rescales fully (phi in the source).
      batch_ndim: number of leading batch axes; 0 for one example, as under `vmap`.

    Returns:
      A registered callable `(z, t) -> Denoised`. A prediction without any spread is
      left as it is.

    Raises:
      ValueError: `guided` has no positive part, the kind is unknown, or `strength` is
        not finite.

    Source: Lin et al. 2023, arXiv 2305.08891, section 3.4.
    """
    if not hasattr(guided, "both"):
        raise ValueError(
            "rescale takes what classifier_free, autoguidance and limited return, not "
            f"{guided}; rescale first, then wrap the result"
        )
    check_count("batch_ndim", batch_ndim, 0)
    as_denoiser(guided, schedule=schedule)
    kind = predictions.as_kind(kind)
    return Rescaled(guided, kind, schedule, strength, batch_ndim)


def _std(value: Array, axes: tuple[int, ...]) -> Array:
    centred = value - value.mean(axes, keepdims=True)
    return root((centred**2).mean(axes, keepdims=True))
