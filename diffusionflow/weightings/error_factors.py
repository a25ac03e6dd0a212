"""Factors on an error: the total weight is proportional to the noise-level density."""

from typing import Any

from jax import Array
from jax.typing import ArrayLike

from diffusionflow import _xp as xp
from diffusionflow._dataclass import (
    as_callable,
    check_bound,
    check_positive,
    register,
)
from diffusionflow._numeric import elementwise, floating
from diffusionflow.predictions import Kind, as_kind
from diffusionflow.schedules import Schedule
from diffusionflow.weightings.base import Weighting


@register
class Mse(Weighting):
    """Plain MSE of a prediction type: factor 1.

    `Mse(edm_f(sigma_data))` is EDM's loss in a form that is finite at both ends.

    Args:
      kind: prediction type whose error is squared; the network may predict another.

    Raises:
      ValueError: the kind is unknown.
    """

    kind: Any

    def __post_init__(self) -> None:
        object.__setattr__(self, "kind", as_kind(self.kind))

    def __call__(self, t: ArrayLike, *, schedule: Schedule) -> Array:
        """Computes the factor at times `t`, of the shape of `t`."""
        del schedule
        return xp.ones_like(floating(t))


@register
class Factor(Weighting):
    """User-defined function of the log-SNR, on the MSE of a prediction type.

    The factor is `weight_fn(logsnr_t)` as it is; `LogSNR` takes the total weight.

    Args:
      weight_fn: `logsnr -> factor`, elementwise; a pytree keeps its numbers as data
        under `jit`. Where the log-SNR is infinite its limit is wanted.
      kind: prediction type whose error is multiplied.

    Raises:
      ValueError: the kind is unknown.
    """

    weight_fn: Any
    kind: Any

    def __post_init__(self) -> None:
        object.__setattr__(self, "weight_fn", as_callable(self.weight_fn))
        object.__setattr__(self, "kind", as_kind(self.kind))

    def __call__(self, t: ArrayLike, *, schedule: Schedule) -> Array:
        return of_logsnr(self.weight_fn, t, schedule)


@register
class EDM(Weighting):
    """EDM: `(rho^2 + sigma_data^2) / (rho sigma_data)^2` on the x-MSE.

    rho = sigma / alpha is the noise level relative to the signal.

    Infinite at sigma = 0; `Mse(edm_f(sigma_data))` is the same weight in a form that is
    finite at both ends.

    Args:
      sigma_data: standard deviation of the data, positive.

    Raises:
      ValueError: `sigma_data` is not positive.

    Source: Karras et al. 2022, arXiv 2206.00364, table 1, loss weighting.
    """

    sigma_data: float | Array = 0.5

    def __post_init__(self) -> None:
        check_positive("sigma_data", self.sigma_data)

    @property
    def kind(self) -> Kind:
        return Kind("x")

    def __call__(self, t: ArrayLike, *, schedule: Schedule) -> Array:
        signal = self.sigma_data * schedule.alpha(t)
        sigma = schedule.sigma(t)
        return (sigma**2 + signal**2) / (sigma * self.sigma_data) ** 2


@register
class P2(Weighting):
    """P2 (perception prioritized): `(k + SNR)^-gamma` on the eps-MSE.

    Args:
      k: positive.
      gamma: at least 0; 0 is the plain eps-MSE.

    Raises:
      ValueError: a value is out of its bound.

    Source: Choi et al. 2022, arXiv 2204.00227.
    """

    k: float | Array = 1.0
    gamma: float | Array = 1.0

    def __post_init__(self) -> None:
        check_positive("k", self.k)
        check_bound("gamma", self.gamma, lambda gamma: gamma >= 0, "at least 0")

    @property
    def kind(self) -> Kind:
        return Kind("eps")

    def __call__(self, t: ArrayLike, *, schedule: Schedule) -> Array:
        sigma = schedule.sigma(t)
        norm = xp.sqrt(self.k * sigma**2 + schedule.alpha(t) ** 2)
        return (sigma / norm) ** (2 * self.gamma)


@register
class MinSNR(Weighting):
    """Min-SNR: `min(SNR, gamma)` on the x-MSE, `W = min(1, gamma / SNR) p(l)`.

    One weighting of the implied x, whatever the network predicts: it is
    `min(SNR, gamma) / SNR` on the eps-MSE, and `min(SNR, gamma) / (SNR + 1)` on the
    v-MSE where alpha^2 + sigma^2 = 1.

    Args:
      gamma: the largest weight, positive.

    Raises:
      ValueError: `gamma` is not positive.

    Source: Hang et al. 2023, arXiv 2303.09556.
    """

    gamma: float | Array = 5.0

    def __post_init__(self) -> None:
        check_positive("gamma", self.gamma)

    @property
    def kind(self) -> Kind:
        return Kind("x")

    def __call__(self, t: ArrayLike, *, schedule: Schedule) -> Array:
        signal, variance = schedule.alpha(t) ** 2, schedule.sigma(t) ** 2
        below = signal < self.gamma * variance  # never where sigma = 0
        snr = signal / xp.where(below, variance, 1)
        return xp.where(below, snr, self.gamma)

    def on_eps(self, t: ArrayLike, *, schedule: Schedule) -> Array:
        """Computes the factor `min(1, gamma / SNR)` on the eps-MSE."""
        signal, variance = schedule.alpha(t) ** 2, schedule.sigma(t) ** 2
        below = signal < self.gamma * variance  # always where alpha = 0
        return xp.where(below, 1, self.gamma * variance / xp.where(below, 1, signal))


@register
class SoftMinSNR(Weighting):
    """Soft-min-SNR: `gamma SNR / (gamma + SNR)` on the x-MSE.

    `W = sigmoid(log gamma - l) p(l)`. A smooth `MinSNR`, one weighting of the implied x
    in the same sense.

    Args:
      gamma: the limit at the data end, positive; 1 / sigma_data^2 in k-diffusion.

    Raises:
      ValueError: `gamma` is not positive.

    Source: Crowson et al. 2024, arXiv 2401.11605, soft-min-SNR.
    """

    gamma: float | Array = 4.0

    def __post_init__(self) -> None:
        check_positive("gamma", self.gamma)

    @property
    def kind(self) -> Kind:
        return Kind("x")

    def __call__(self, t: ArrayLike, *, schedule: Schedule) -> Array:
        signal, variance = schedule.alpha(t) ** 2, schedule.sigma(t) ** 2
        return self.gamma * signal / (self.gamma * variance + signal)

    def on_eps(self, t: ArrayLike, *, schedule: Schedule) -> Array:
        """Computes the factor `gamma / (gamma + SNR)` on the eps-MSE."""
        signal, variance = schedule.alpha(t) ** 2, schedule.sigma(t) ** 2
        return self.gamma * variance / (self.gamma * variance + signal)


@register
class TruncatedSNR(Weighting):
    """Truncated SNR: `max(SNR, 1)` on the x-MSE, `W = max(1, 1 / SNR) p(l)`.

    Written on the v-MSE, `max(alpha^2, sigma^2) / (alpha^2 + sigma^2)^2`, it is finite
    at both ends.

    Source: Salimans and Ho 2022, arXiv 2202.00512, truncated SNR weighting.
    """

    @property
    def kind(self) -> Kind:
        return Kind("v")

    def __call__(self, t: ArrayLike, *, schedule: Schedule) -> Array:
        signal, variance = schedule.alpha(t) ** 2, schedule.sigma(t) ** 2
        return xp.maximum(signal, variance) / (signal + variance) ** 2


def of_logsnr(weight_fn: Any, t: ArrayLike, schedule: Schedule) -> Array:
    """Computes `weight_fn(logsnr_t)`; its derivatives are 0 at infinite log-SNR."""
    t = floating(t)
    logsnr = schedule.logsnr(t)
    finite = xp.isfinite(logsnr)
    inside = schedule.logsnr(xp.where(finite, t, 0.5))
    limit = xp.stop_gradient(elementwise(weight_fn, logsnr))
    return xp.where(finite, elementwise(weight_fn, inside), limit)
