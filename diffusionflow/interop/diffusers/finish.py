"""What diffusers' schedulers do to x_hat: clipping, thresholds, boundary conditions."""

from typing import Any

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from diffusionflow import predictions, schedules
from diffusionflow._dataclass import register, static
from diffusionflow.guidance.base import Wrapper, at_positive, event_axes
from diffusionflow.interop.convention import Convention
from diffusionflow.interop.edm import NoiseClock
from diffusionflow.predictions import Denoised, Denoiser

_SIGMA_DATA = 0.5  # of the boundary condition of consistency models there
# Classes whose step takes eps as the network predicts it, whatever is done to x_hat.
_KEEP_EPS = ("DDIMScheduler",)
_NO_FINISH = ("TCDScheduler",)  # it reads these entries nowhere


@register
class Clipped(Wrapper):
    """Clips x_hat to `[-limit, limit]`, or by a quantile of each example.

    With a quantile q: `s = min(max(q of |x_hat|, 1), limit)` and
    `x_hat <- clip(x_hat, -s, s) / s`, over all axes but the first. eps_hat follows from
    z, or stays as predicted (`keep_eps`): then z is not `alpha x_hat + sigma eps_hat`.

    Args:
      denoise_fn: `(z, t) -> Denoised`.
      schedule: the one that t belongs to.
      limit: positive.
      quantile: in [0, 1], or None.
      keep_eps: whether eps_hat stays.
    """

    denoise_fn: Any
    schedule: Any
    limit: float
    quantile: float | None
    keep_eps: bool = static()

    def denoise(self, z: Array, t: Array) -> Denoised:
        denoised = self.denoise_fn(z, t)
        before = denoised.x
        if self.quantile is None:
            x = jnp.clip(before, -self.limit, self.limit)
        else:
            axes = event_axes(before, 1)
            bound = jnp.quantile(jnp.abs(before), self.quantile, axes, keepdims=True)
            bound = jnp.minimum(jnp.maximum(bound, 1), self.limit)
            x = jnp.clip(before, -bound, bound) / bound
        if self.keep_eps:
            return Denoised(x, denoised.eps)
        alpha, sigma = (
            predictions.per_event(level(t), x)
            for level in (self.schedule.alpha, self.schedule.sigma)
        )
        return Denoised(x, denoised.eps + at_positive(alpha * (before - x), sigma))


@register
class Boundary(Wrapper):
    """Makes x_hat that of a consistency model: `c_skip(n) z + c_out(n) x_hat`.

    `c_skip = 1 / (4 m^2 + 1)`, `c_out = m / sqrt(m^2 + 1 / 4)`, m the timestep n times
    `scaling`, so that x_hat is z at timestep 0. eps_hat stays.
    """

    denoise_fn: Any
    clock_fn: Any
    scaling: float

    def denoise(self, z: Array, t: Array) -> Denoised:
        denoised = self.denoise_fn(z, t)
        time = predictions.per_event(self.clock_fn(t), z) * self.scaling
        norm = time**2 + _SIGMA_DATA**2
        x = time / jnp.sqrt(norm) * denoised.x + _SIGMA_DATA**2 / norm * z
        return Denoised(x, denoised.eps)


@register
class Listed:
    """A clock with recorded times at some t, and another clock elsewhere.

    Args:
      clock_fn: the other.
      t: times, `[count]`.
      time: the network's time at each of them.
    """

    clock_fn: Any
    t: Any
    time: Any

    def __call__(self, t: ArrayLike) -> Array:
        t = jnp.asarray(t)
        known = jnp.asarray(self.t).astype(t.dtype)
        gap = jnp.abs(t[..., None] - known)
        nearest = jnp.argmin(gap, axis=-1)
        listed = jnp.asarray(self.time).astype(t.dtype)[nearest]
        near = jnp.min(gap, axis=-1) <= 4 * jnp.finfo(t.dtype).eps
        return jnp.where(near, listed, self.clock_fn(t))


@register
class LogIndex:
    """The index of a level in the table of a chain, log-linear between its levels."""

    schedule: Any

    def __call__(self, t: ArrayLike) -> Array:
        ends = self.schedule.complement / self.schedule.alphas_cumprod
        logs = jnp.log(jnp.asarray(ends))
        index = jnp.arange(logs.shape[0], dtype=logs.dtype)
        return jnp.interp(-self.schedule.logsnr(t), logs, index)


def listed(convention: Convention, t: Any, time: Any) -> Convention:
    """Returns the convention with the network's times at `t` as a scheduler has them.

    Between them, where the second stages of some methods are, a chain has the index of
    the level.
    """
    other, schedule = convention.clock_fn, convention.schedule
    if isinstance(schedule, schedules.Discrete) and not isinstance(other, NoiseClock):
        other = LogIndex(schedule)
    clock = Listed(other, t, time)
    return Convention(
        convention.schedule,
        convention.kind,
        clock,
        convention.scale_fn,
        convention.sign,
    )


def finished(
    name: str, settings: dict[str, Any], denoiser: Denoiser, convention: Convention
) -> Denoiser:
    """Returns the denoiser with what the class does to x_hat.

    Raises:
      ValueError: a threshold is out of its bounds.
    """
    if name in _NO_FINISH:
        return denoiser
    keep, schedule = name in _KEEP_EPS, convention.schedule
    if settings.get("thresholding"):
        limit, quantile = (
            settings["sample_max_value"],
            settings["dynamic_thresholding_ratio"],
        )
        if not (limit >= 1 and 0 <= quantile <= 1):
            raise ValueError(
                f"sample_max_value={limit!r}, dynamic_thresholding_ratio={quantile!r}: "
                "must be at least 1, and in [0, 1]"
            )
        denoiser = Clipped(denoiser, schedule, float(limit), float(quantile), keep)
    elif settings.get("clip_sample"):
        limit = settings["clip_sample_range"]
        if not limit > 0:
            raise ValueError(f"clip_sample_range={limit!r}: must be positive")
        denoiser = Clipped(denoiser, schedule, float(limit), None, keep)
    if name == "LCMScheduler":
        scaling = float(settings["timestep_scaling"])
        denoiser = Boundary(denoiser, convention.clock_fn, scaling)
    return denoiser
