"""Base classes of guided denoisers, and changes of x_hat and eps_hat at fixed z."""

from typing import Any

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from diffusionflow import predictions
from diffusionflow._numeric import at_least_float32
from diffusionflow.predictions import AnyKind, Denoised, Denoiser, per_event
from diffusionflow.schedules import Schedule


class Wrapper(Denoiser):
    """A denoiser that calls each denoiser among its fields once per evaluation."""

    def num_network_calls(self, t: ArrayLike) -> int | Array | None:
        counts = [part.num_network_calls(t) for part in self.parts()]
        known = [count for count in counts if count is not None]
        return sum(known) if len(known) == len(counts) else None


class Guided(Wrapper):
    """Base class of guidance by a positive and a negative denoiser.

    Subclasses give the formula, `mix`. Their field `scale`, or `scales`, is 1 for the
    positive denoiser alone.
    """

    positive_fn: Any
    negative_fn: Any

    def mix(
        self,
        positive: Denoised,
        negative: Denoised,
        t: ArrayLike,
        weight: Array | None = None,
    ) -> Denoised:
        """Mixes the results of the two denoisers.

        Args:
          positive: of `positive_fn`.
          negative: of `negative_fn` at the same z.
          t: the time of both.
          weight: w, which replaces each scale s by `w s + 1 - w`, scalar or
            `[*batch]`; None for 1.
        """
        raise NotImplementedError(
            f"{type(self).__name__} must define mix(positive, negative, t, weight)"
        )

    def both(self, z: Array, t: ArrayLike) -> tuple[Denoised, Denoised]:
        """Returns the guided result, and the positive one that it comes from."""
        positive = self.positive_fn(z, t)
        return self.mix(positive, self.negative_fn(z, t), t), positive

    def denoise(self, z: Array, t: Array) -> Denoised:
        return self.both(z, t)[0]


def check_guided(name: str, guided: Any) -> None:
    """Raises a `ValueError` where `guided` has no positive and negative part."""
    if not isinstance(guided, Guided):
        raise ValueError(
            f"{name} takes guidance by two denoisers, such as classifier_free and "
            f"autoguidance return, not {guided}; {name} first, then wrap the result"
        )


def weighted_scale(scale: ArrayLike, weight: Array | None, like: Array) -> Array:
    """Computes `w scale + 1 - w`, shaped to multiply `like`; `scale` if no weight."""
    scale = per_event(at_least_float32(scale), like, "scale")
    if weight is None:
        return scale
    weight = per_event(weight, like, "weight")
    return weight * scale + (1 - weight)


def with_x(denoised: Denoised, x: Array, t: ArrayLike, schedule: Schedule) -> Denoised:
    """Replaces x_hat; `eps_hat = (z - alpha x) / sigma`, kept where sigma = 0."""
    alpha, sigma = (
        per_event(level(t), x) for level in (schedule.alpha, schedule.sigma)
    )
    gained = at_positive(alpha * (denoised.x - x), sigma)
    return Denoised(x, denoised.eps + gained)


def with_change(
    denoised: Denoised, change: Array, *, kind: AnyKind, t: ArrayLike, schedule: Any
) -> Denoised:
    """Adds `change` to the prediction of `kind`, at fixed z.

    eps changes by alpha / D of it and x by -sigma / D: by nothing where it is 0.
    """
    det = predictions.determinant(kind, t, schedule=schedule)
    for_x = per_event(schedule.sigma(t) / det, change)
    for_eps = per_event(schedule.alpha(t) / det, change)
    return Denoised(denoised.x - for_x * change, denoised.eps + for_eps * change)


def event_axes(z: Array, batch_ndim: int) -> tuple[int, ...]:
    """Returns the axes of one example in a batch.

    Raises:
      ValueError: `z` has no axis beyond those of the batch.
    """
    if z.ndim <= batch_ndim:
        raise ValueError(
            f"batch_ndim={batch_ndim}: must be below {z.ndim}, the number of axes of "
            f"an array of shape {z.shape}; it counts the leading axes that are the "
            "batch, 0 for a single example"
        )
    return tuple(range(batch_ndim, z.ndim))


def at_positive(value: Array, divisor: Array) -> Array:
    """Computes `value / divisor`, 0 where the divisor is 0, also in its derivatives."""
    positive = divisor > 0
    return jnp.where(positive, value / jnp.where(positive, divisor, 1), 0)
