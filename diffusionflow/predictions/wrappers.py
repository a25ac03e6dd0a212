"""Wrappers: preconditioning, reversed time, and another schedule."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from diffusionflow import _xp as xp
from diffusionflow._dataclass import (
    as_callable,
    check_positive,
    is_traced,
    register,
    static,
)
from diffusionflow._numeric import at_least_float32, floating, in_float64
from diffusionflow.predictions.conversion import per_event
from diffusionflow.predictions.denoisers import Denoised, DenoiseFn, Denoiser
from diffusionflow.predictions.functions import as_denoiser
from diffusionflow.predictions.kinds import AnyKind, as_kind
from diffusionflow.predictions.network import PredictFn
from diffusionflow.schedules import Schedule, as_schedule, check_same_schedule


@register
class Preconditioned:
    """Network with preconditioned input. See `precondition`."""

    net_fn: Any
    schedule: Any
    sigma_data: Any

    def __call__(self, z: Array, t: ArrayLike, s: ArrayLike | None = None) -> Array:
        scale = 1 / self.schedule.z_std(t, self.sigma_data)
        z = at_least_float32(z)
        given = (t,) if s is None else (t, s)
        times = (jnp.asarray(self.schedule.noise_level(at), z.dtype) for at in given)
        return self.net_fn(per_event(scale, z) * z, *times)


def precondition(
    net_fn: Callable[..., Array], *, schedule: Schedule, sigma_data: ArrayLike = 1.0
) -> Preconditioned:
    """Preconditions a network: input at unit scale, and time from the log-SNR alone.

    `net_fn(z / sqrt(sigma_data^2 alpha^2 + sigma^2), sigma / (alpha + sigma))`. Both
    depend on the log-SNR and on `z / alpha` alone, so that the schedule of a trained
    network can be exchanged. On flow matching the time is `t` itself. A two-time
    network gets the time of s as its third argument.

    Args:
      net_fn: `(z, time) -> array`, the bare network; time in [0, 1]. One that is called
        with a second time is `(z, time, second_time) -> array`.
      schedule: the one that the `t` of the result belongs to.
      sigma_data: standard deviation of the data, 1 for none assumed.

    Returns:
      `predict_fn(z, t)`, or `predict_fn(z, t, s)`, a registered callable.

    Raises:
      ValueError: `sigma_data` is not positive.

    Source: the input scale is c_in of Karras et al. 2022, arXiv 2206.00364, table 1.
    """
    check_positive("sigma_data", sigma_data)
    return Preconditioned(as_callable(net_fn), as_schedule(schedule), sigma_data)


class EdmPreconditioning(NamedTuple):
    """The four functions of EDM for `z = alpha x + sigma eps`.

    `x_hat = c_skip z + c_out F(c_in z, c_noise)`.

    Fields:
      c_skip: of the shape of t, like the others.
      c_out: scale of the network's output.
      c_in: scale of its input.
      c_noise: its conditioning on the noise level.
    """

    c_skip: Array
    c_out: Array
    c_in: Array
    c_noise: Array


def edm_preconditioning(
    t: ArrayLike, *, schedule: Schedule, sigma_data: float | Array = 0.5
) -> EdmPreconditioning:
    """Computes EDM's preconditioning on any schedule.

    With `S^2 = sigma^2 + sigma_data^2 alpha^2`:

        c_skip = sigma_data^2 alpha / S^2,    c_out = sigma_data sigma / S,
        c_in = 1 / S,                         c_noise = -logsnr / 8.

    The output F is the kind `edm_f(sigma_data)`, which is all that conversions need;
    `precondition` gives the network `c_in z` and a time that is finite at both ends.

    Args:
      t: times, any shape.
      schedule: any schedule; EDM's own has alpha = 1.
      sigma_data: standard deviation of the data.

    Returns:
      `EdmPreconditioning`; `c_noise` is infinite where the log-SNR is.

    Raises:
      ValueError: `sigma_data` is not positive.

    Source: Karras et al. 2022, arXiv 2206.00364, table 1, there for `z / alpha`.
    """
    check_positive("sigma_data", sigma_data)
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    norm = schedule.z_std(t, sigma_data)
    return EdmPreconditioning(
        c_skip=(sigma_data / norm) ** 2 * alpha,
        c_out=sigma_data * sigma / norm,
        c_in=1 / norm,
        c_noise=-schedule.logsnr(t) / 8,
    )


@register
class Flipped:
    """Network in the other direction of time. See `flip_time`."""

    predict_fn: Any
    sign: int = static()

    def __call__(self, z: Array, t: ArrayLike) -> Array:
        t = jnp.asarray(1 - floating(t), jnp.promote_types(z.dtype, jnp.float32))
        return self.sign * self.predict_fn(z, t)


def flip_time(predict_fn: PredictFn, *, kind: AnyKind) -> Flipped:
    """Converts a network trained with t = 0 at the noise to this library's time.

    `p(z, t) = s p_other(z, 1 - t)`. Reversing time flips `u` and `dz_dt`, s = -1;
    every other kind keeps its sign. Flipping twice is the identity.

    Args:
      predict_fn: `(z, t) -> prediction` in the other direction of time.
      kind: of the prediction.

    Returns:
      A registered callable in this direction of time.

    Raises:
      ValueError: the kind is unknown.
    """
    reversed_sign = str(as_kind(kind)) in ("u", "dz_dt")
    return Flipped(as_callable(predict_fn), -1 if reversed_sign else 1)


@register
class Rescheduled(Denoiser):
    """Denoiser on another schedule. See `reschedule`."""

    denoise_fn: Any
    source: Any
    target: Any

    def denoise(self, z: Array, t: Array) -> Denoised:
        scale = per_event(jnp.asarray(self._place(t)[1], t.dtype), z)
        return self.denoise_fn(scale * z, self._time(t))

    def denoise_toward(self, z: Array, t: Array, s: Array) -> Denoised:
        scale = per_event(jnp.asarray(self._place(t)[1], t.dtype), z)
        inner: Denoiser = self.denoise_fn
        return inner.denoise_toward(scale * z, self._time(t), self._time(s))

    def num_network_calls(self, t: ArrayLike) -> int | Array | None:
        return self.denoise_fn.num_network_calls(self._time(t))

    def check_times(self, t: ArrayLike) -> None:
        self.denoise_fn.check_times(self._time(t))

    def check_schedule(self, schedule: Schedule) -> None:
        check_same_schedule(self.target, schedule)

    def _time(self, t: ArrayLike) -> Array:
        """Computes the time on `source`, in the type that it is called with."""
        time, _ = self._place(t)
        dtype = at_least_float32(t).dtype if isinstance(t, jax.Array) else None
        return jnp.asarray(time, dtype)

    def _place(self, t: ArrayLike) -> tuple[Any, Any]:
        """Finds the time on `source` and the factor on z; refuses one out of range."""
        rounding = 4 * float(jnp.finfo(at_least_float32(t).dtype).eps)
        place = lambda source, target, t: _place(source, target, t, rounding)
        time, scale = in_float64(place, self.source, self.target, t)
        if not is_traced(time, scale) and np.isnan(time).any():
            bad = np.broadcast_to(np.asarray(t), time.shape)[np.isnan(time)].ravel()[0]
            low, high = self.source.logsnr_range()
            raise ValueError(
                f"the log-SNR of {self.target} at t={bad} is outside that of "
                f"{self.source}, [{low}, {high}], where the denoiser is "
                "defined; truncate the target, or choose other times"
            )
        return time, scale


def _place(
    source: Schedule, target: Schedule, t: ArrayLike, rounding: float
) -> tuple[Array, Array]:
    """Finds the time on `source` and the factor on z; NaN out of range.

    A time is in the range, or at its end, up to the relative `rounding` of `t` and of
    the log-SNR: where the target is steep, the log-SNR is poorly resolved near t = 1.
    """
    t = floating(t)
    low, high = source.logsnr(xp.ones_like(t)), source.logsnr(xp.zeros_like(t))
    early, late = t * (1 - rounding), xp.minimum(t * (1 + rounding), xp.maximum(t, 1))
    inside = target.logsnr(early) >= low - rounding * (1 + xp.abs(low))
    inside = inside & (target.logsnr(late) <= high + rounding * (1 + xp.abs(high)))
    time = source.inverse_logsnr(_bounded(target.logsnr(t), low, high))
    time = xp.where(inside, _bounded(time, 0, 1), 0.5)
    scale = source.z_std(time) / target.z_std(t)
    return xp.where(inside, time, xp.nan), xp.where(inside, scale, xp.nan)


def _bounded(value: Array, low: ArrayLike, high: ArrayLike) -> Array:
    """Clips `value`, with the full derivative at the bounds."""
    return xp.where(value < low, low, xp.where(value > high, high, value))


def reschedule(
    denoise_fn: DenoiseFn, *, source: Schedule, target: Schedule
) -> Rescheduled:
    """Converts a denoiser of schedule `source` to schedule `target`.

    Evaluated at the time of `source` with the same log-SNR, and at `c z` with `c` the
    ratio of their scales `sqrt(alpha^2 + sigma^2)`: there z is the same mixture of x
    and eps, so that both are unchanged. The ends go to the ends where both schedules
    reach the same log-SNR there, infinite ones included.

    Args:
      denoise_fn: `(z, t) -> Denoised` on `source`.
      source: the schedule that `denoise_fn` belongs to.
      target: the schedule that the `t` and `z` of the result belong to.

    Returns:
      A registered callable `(z, t) -> Denoised`. It raises a `ValueError` where the
      log-SNR of `target` leaves the range of `source` by more than the rounding of t
      in its type; at traced times, which cannot be checked, it returns NaN there.
    """
    as_schedule(target)
    return Rescheduled(as_denoiser(denoise_fn, schedule=source), source, target)
