"""Constraints on x_hat, thresholds and inpainting; eps_hat follows from z.

At fixed z a change of x_hat is a change of eps_hat by `-alpha / sigma` of it, so that
`z = alpha x_hat + sigma eps_hat` stays true. At sigma = 0, where z alone is the data,
eps_hat is kept.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from diffusionflow._dataclass import (
    check_below,
    check_bound,
    check_count,
    check_positive,
    is_traced,
    register,
    static,
)
from diffusionflow._numeric import at_least_float32
from diffusionflow.guidance.base import Wrapper, at_positive, event_axes, with_x
from diffusionflow.predictions import (
    Denoised,
    DenoiseFn,
    as_data,
    as_denoiser,
    per_event,
)
from diffusionflow.schedules import Schedule


@register
class StaticThreshold(Wrapper):
    """See `static_threshold`."""

    denoise_fn: Any
    schedule: Any
    low: Any
    high: Any

    def __post_init__(self) -> None:
        check_below("low", self.low, "high", self.high)

    def denoise(self, z: Array, t: Array) -> Denoised:
        denoised = self.denoise_fn(z, t)
        low, high = (
            at_least_float32(bound).astype(denoised.x.dtype)
            for bound in (self.low, self.high)
        )
        return with_x(denoised, jnp.clip(denoised.x, low, high), t, self.schedule)


def static_threshold(
    denoise_fn: DenoiseFn,
    *,
    schedule: Schedule,
    low: ArrayLike,
    high: ArrayLike,
) -> StaticThreshold:
    """Clips x_hat to `[low, high]`; `eps_hat = (z - alpha x_hat) / sigma` follows.

    Args:
      denoise_fn: `(z, t) -> Denoised`.
      schedule: the one that t belongs to.
      low: the least value of data, such as -1.
      high: the largest.

    Returns:
      A registered callable `(z, t) -> Denoised`; where nothing is clipped the result is
      that of `denoise_fn`, bit for bit.

    Raises:
      ValueError: `high` is not above `low`.

    Source: Saharia et al. 2022, arXiv 2205.11487, static thresholding.
    """
    return StaticThreshold(
        as_denoiser(denoise_fn, schedule=schedule), schedule, low, high
    )


@register
class DynamicThreshold(Wrapper):
    """See `dynamic_threshold`."""

    denoise_fn: Any
    schedule: Any
    quantile: Any
    limit: Any
    batch_ndim: int = static()

    def __post_init__(self) -> None:
        inside = lambda quantile: 0 <= quantile <= 1
        check_bound("quantile", self.quantile, inside, "in [0, 1]")
        check_positive("limit", self.limit)

    def denoise(self, z: Array, t: Array) -> Denoised:
        denoised = self.denoise_fn(z, t)
        x = denoised.x
        quantile = at_least_float32(self.quantile).astype(x.dtype)
        limit = per_event(at_least_float32(self.limit), x, "limit")
        axes = event_axes(x, self.batch_ndim)
        bound = jnp.quantile(jnp.abs(x), quantile, axis=axes, keepdims=True)
        bound = jnp.maximum(bound, limit)
        inside = jnp.clip(x, -bound, bound) * (limit / bound)
        return with_x(denoised, inside, t, self.schedule)


def dynamic_threshold(
    denoise_fn: DenoiseFn,
    *,
    schedule: Schedule,
    quantile: ArrayLike = 0.995,
    limit: ArrayLike = 1.0,
    batch_ndim: int = 1,
) -> DynamicThreshold:
    """Clips x_hat to a quantile s of its absolute values, and scales it into range.

    `s = max(limit, quantile of |x_hat|)` of each example,
    `x_hat <- clip(x_hat, -s, s) limit / s`, and eps_hat follows from z.

    Args:
      denoise_fn: `(z, t) -> Denoised`.
      schedule: the one that t belongs to.
      quantile: in [0, 1].
      limit: the data are in `[-limit, limit]`.
      batch_ndim: number of leading batch axes; 0 for one example, as under `vmap`.

    Returns:
      A registered callable `(z, t) -> Denoised`; an example whose s is `limit` is
      clipped as by `static_threshold`.

    Raises:
      ValueError: a setting is out of bounds.

    Source: Saharia et al. 2022, arXiv 2205.11487, dynamic thresholding.
    """
    check_count("batch_ndim", batch_ndim, 0)
    denoiser = as_denoiser(denoise_fn, schedule=schedule)
    return DynamicThreshold(denoiser, schedule, quantile, limit, batch_ndim)


@register
class Inpainted(Wrapper):
    """See `inpaint`."""

    denoise_fn: Any
    x: Any
    mask: Any
    schedule: Any

    def denoise(self, z: Array, t: Array) -> Denoised:
        denoised = self.denoise_fn(z, t)
        if not is_traced(self.mask) and not np.asarray(self.mask).any():
            return denoised  # not even another program, which could round differently
        x, z = self.finalize(denoised.x), at_least_float32(z)
        alpha = per_event(self.schedule.alpha(t), z)
        sigma = per_event(self.schedule.sigma(t), z)
        known = jnp.broadcast_to(self.mask, z.shape) & (sigma > 0)
        eps = at_positive(z - alpha * x, sigma)
        return Denoised(x, jnp.where(known, eps, denoised.eps))

    def finalize(self, x: Array) -> Array:
        """Puts the known pixels into `x`, bit for bit."""
        own = as_data(self.x, "x").astype(x.dtype)
        known = jnp.broadcast_to(own, x.shape)
        return jnp.where(
            jnp.broadcast_to(self.mask, x.shape), known, super().finalize(x)
        )


def inpaint(
    denoise_fn: DenoiseFn, x: ArrayLike, mask: ArrayLike, *, schedule: Schedule
) -> Inpainted:
    """Inpaints: samples the unknown pixels of `x` given the known ones.

    On known pixels `x_hat = x` and `eps_hat = (z - alpha x) / sigma`: of z, a sampler
    then carries the noise it started from, or replaces it as far as it is stochastic,
    around `alpha x`. So z has known pixels with noise of the right level at every time,
    for any sampler, also a multi-step one, whose past predictions stay true. At the end
    `samplers.sample` puts the known pixels in once more (`finalize`), so that they are
    equal bit for bit. The unknown ones see the known ones through z alone: samples are
    not exactly those of the conditional law.

    Args:
      denoise_fn: `(z, t) -> Denoised`, guided or not.
      x: the known data, which broadcasts to the shape of z; unknown pixels of it are
        ignored, but must be finite.
      mask: bools, True where known, which broadcasts likewise; one without True gives
        the plain sample, bit for bit, or to rounding where the mask is traced.
      schedule: the one that t belongs to.

    Returns:
      A registered callable `(z, t) -> Denoised`.

    Raises:
      ValueError: `mask` is not of bools; in a call, `x` is of integers, as images on
        disk are.

    Source: Wang et al. 2022, arXiv 2212.00490, for the operator that masks. Methods
    that replace known pixels of z by `alpha x + sigma eps` with new noise in every step
    (Song et al. 2020, arXiv 2011.13456) give them the same law at each time, but not
    the law of one path, and break multi-step samplers.
    """
    if not jnp.issubdtype(jnp.result_type(mask), jnp.bool_):
        raise ValueError(
            f"mask has dtype {jnp.result_type(mask)}: must be bool, True where x is "
            "known; write mask > 0"
        )
    return Inpainted(as_denoiser(denoise_fn, schedule=schedule), x, mask, schedule)
