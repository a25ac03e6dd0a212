"""Frequency-decoupled guidance (FDG): a scale for each band of an image."""

import itertools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from diffusionflow._dataclass import (
    check_bound,
    check_count,
    check_finite,
    register,
    static,
)
from diffusionflow.guidance.base import Guided, event_axes, weighted_scale
from diffusionflow.predictions import Denoised, DenoiseFn, as_denoiser

TAPS = np.array([1, 4, 6, 4, 1]) / 16


@register
class FrequencyDecoupled(Guided):
    """See `frequency_decoupled`."""

    positive_fn: Any
    negative_fn: Any
    scales: Any
    batch_ndim: int = static()

    def __post_init__(self) -> None:
        for scale in self.scales if isinstance(self.scales, tuple) else ():
            check_finite("scales", scale)

    def mix(
        self,
        positive: Denoised,
        negative: Denoised,
        t: ArrayLike,
        weight: Array | None = None,
    ) -> Denoised:
        del t
        axes = event_axes(positive.x, self.batch_ndim)[:-1]

        def guided(toward: Array, away: Array) -> Array:
            parts = bands(toward - away, len(self.scales), axes)
            for scale, part in zip(self.scales, parts, strict=True):
                toward = toward + (weighted_scale(scale, weight, part) - 1) * part
            return toward

        return jax.tree.map(guided, positive, negative)


def frequency_decoupled(
    conditional_fn: DenoiseFn,
    unconditional_fn: DenoiseFn,
    *,
    scales: Sequence[ArrayLike],
    batch_ndim: int = 1,
) -> FrequencyDecoupled:
    """Applies frequency-decoupled guidance: each band of the update has its own scale.

        x_hat = cond + sum_k (scales_k - 1) band_k(cond - uncond)

    with the bands of a Laplacian pyramid, from low to high, which add up to the update;
    eps_hat likewise, since bands are linear and the same in both. Scales of 1 are the
    conditional denoiser, bit for bit, and equal scales `classifier_free`, to rounding.
    Low frequencies set colour and layout and are what large scales saturate, high ones
    are detail: the source takes a lower scale for the low ones.

    Args:
      conditional_fn: `(z, t) -> Denoised` given the condition.
      unconditional_fn: the same without it.
      scales: from the lowest band to the highest, each scalar or `[*batch]`; two or
        more.
      batch_ndim: number of leading batch axes; 0 for one example, as under `vmap`. The
        event is `[*sizes, channels]`.

    Returns:
      A registered callable `(z, t) -> Denoised`; its network calls are those of both.

    Raises:
      ValueError: there are fewer than two scales, or one is not finite; at a call: an
        event has no axis besides its channels.

    Source: Sadat et al. 2025, arXiv 2506.19713.
    """
    check_count("batch_ndim", batch_ndim, 0)
    if not (isinstance(scales, (tuple, list)) or getattr(scales, "ndim", 0) == 1):
        raise ValueError(
            f"scales={scales!r}: must be a sequence of numbers, one for each band; "
            "classifier_free has one scale"
        )
    check_bound(
        "the number of scales",
        len(scales),
        lambda count: count >= 2,
        "at least 2, from low to high",
        "classifier_free has one scale",
    )
    pair = as_denoiser(conditional_fn), as_denoiser(unconditional_fn)
    return FrequencyDecoupled(*pair, tuple(scales), batch_ndim)


def bands(value: Array, count: int, axes: tuple[int, ...]) -> list[Array]:
    """Splits an array into bands of a Laplacian pyramid, which add up to it.

    Each level is smoothed by the binomial filter (1, 4, 6, 4, 1) / 16, with repeated
    edges, and halved; a band is a level less the next one, resized by linear
    interpolation to full size.

    Args:
      value: any shape.
      count: number of bands.
      axes: to smooth and halve.

    Returns:
      Arrays of the shape of `value`, from the lowest band to the highest.

    Raises:
      ValueError: there are no axes.

    Source: Burt and Adelson, The Laplacian pyramid as a compact image code, IEEE
    Transactions on Communications 31, 1983; resized linearly here.
    """
    if not axes:
        raise ValueError(
            f"an array of shape {value.shape} has no axes of pixels: events must be "
            "[*sizes, channels]"
        )
    levels, small = [value], value
    for _ in range(count - 1):
        for axis in axes:
            small = _halved(small, axis)
        levels.append(jax.image.resize(small, value.shape, "linear"))
    finer = [a - b for a, b in itertools.pairwise(levels)]
    return [levels[-1], *reversed(finer)]


def _halved(value: Array, axis: int) -> Array:
    reach = len(TAPS) // 2
    pads = [(reach, reach) if i == axis else (0, 0) for i in range(value.ndim)]
    padded = jnp.pad(value, pads, mode="edge")
    size = value.shape[axis]
    smooth = sum(
        jnp.asarray(tap, value.dtype)
        * jax.lax.slice_in_dim(padded, i, i + size, stride=2, axis=axis)
        for i, tap in enumerate(TAPS)
    )
    return jnp.asarray(smooth)
