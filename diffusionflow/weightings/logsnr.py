"""Weightings with the factor `-dlogsnr/dt`: functions of the log-SNR alone."""

from typing import Any

from jax import Array
from jax.typing import ArrayLike

from diffusionflow import _xp as xp
from diffusionflow._dataclass import as_callable, register
from diffusionflow._numeric import cast, floating
from diffusionflow.predictions import Kind
from diffusionflow.schedules import Schedule
from diffusionflow.weightings.base import Weighting
from diffusionflow.weightings.error_factors import of_logsnr


@register
class Likelihood(Weighting):
    """Likelihood weighting: `g^2 = -sigma^2 dlogsnr/dt` on the score-MSE.

    `W = 1` at uniform t. Infinite where the SDE is, such as at t = 1 of flow matching;
    `ELBO` is the same weight in a form that stays finite there.

    Source: Song et al. 2021, arXiv 2101.09258, likelihood weighting.
    """

    @property
    def kind(self) -> Kind:
        return Kind("score")

    def __call__(self, t: ArrayLike, *, schedule: Schedule) -> Array:
        return schedule.g2(t)


@register
class ELBO(Weighting):
    """Variational bound (ELBO, VLB): `-dlogsnr/dt` on the eps-MSE.

    `W = 1` at uniform t. The diffusion term of the bound in nats is
    `1/2 int E ||eps_hat - eps||^2 dlogsnr` with the norm summed over the event: the
    mean loss times half the event's size.
    Written on the v-MSE, `(2 alpha^2 sigma' - sigma (alpha^2)') / (sigma
    (alpha^2 + sigma^2)^2)`, it is finite where alpha = 0.

    Source: Kingma et al. 2021, arXiv 2107.00630, the continuous-time bound.
    """

    @property
    def kind(self) -> Kind:
        return Kind("v")

    def __call__(self, t: ArrayLike, *, schedule: Schedule) -> Array:
        t = floating(t)
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        signal = alpha > 0  # where alpha = 0, sigma' may be infinite
        _, dsigma = schedule.derivatives(xp.where(signal, t, 0.5))
        dalpha2, _ = schedule.square_derivatives(t)
        top = 2 * alpha**2 * dsigma - sigma * dalpha2
        return top / (sigma * (alpha**2 + sigma**2) ** 2)


@register
class LogSNR(Weighting):
    """User-defined total weight, `W = weight_fn` at uniform t, with `-dlogsnr/dt`.

    The same objective on every schedule that reaches the same log-SNRs. Written on the
    v-MSE: `weight_fn(logsnr_t)` times the factor of `ELBO`, and 0 where both
    `weight_fn` and sigma are 0. That is the limit where the weight falls faster than
    the factor of `ELBO` grows, which is as 1 / t if sigma is a power of t; at that very
    speed the limit depends on the schedule, and `Sigmoid` has it.

    Args:
      weight_fn: `logsnr -> W`, elementwise; a pytree keeps its numbers as data under
        `jit`. Where the log-SNR is infinite its limit is wanted.

    Source: Kingma and Gao 2023, arXiv 2303.00848, weighted loss.
    """

    weight_fn: Any

    def __post_init__(self) -> None:
        object.__setattr__(self, "weight_fn", as_callable(self.weight_fn))

    @property
    def kind(self) -> Kind:
        return Kind("v")

    def __call__(self, t: ArrayLike, *, schedule: Schedule) -> Array:
        t = floating(t)
        weight = of_logsnr(self.weight_fn, t, schedule)
        used = (weight != 0) | (schedule.sigma(t) > 0)
        factor = ELBO()(xp.where(used, t, 0.5), schedule=schedule)
        return xp.where(used, weight * factor, 0)


@register
class Sigmoid(Weighting):
    """Sigmoid weighting: `W = sigmoid(bias - l)` at uniform t, with `-dlogsnr/dt`.

    Equal to `e^bias sigmoid(l - bias) (-dlogsnr/dt)` on the x-MSE. Written on the
    v-MSE, with `c = e^bias`, it is finite at both ends:
    `c (alpha^2 (sigma^2)' - sigma^2 (alpha^2)') / ((alpha^2 + c sigma^2) (alpha^2 +
    sigma^2)^2)`.

    Args:
      bias: log-SNR at which W is half of its limit at the noise end.

    Source: Kingma and Gao 2023, arXiv 2303.00848; Hoogeboom et al. 2024,
    arXiv 2410.19324.
    """

    bias: float | Array = 0.0

    @property
    def kind(self) -> Kind:
        return Kind("v")

    def __call__(self, t: ArrayLike, *, schedule: Schedule) -> Array:
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        scale = cast(xp.exp(floating(self.bias)), alpha)
        dalpha2, dsigma2 = schedule.square_derivatives(t)
        top = scale * (alpha**2 * dsigma2 - sigma**2 * dalpha2)
        bottom = (alpha**2 + scale * sigma**2) * (alpha**2 + sigma**2) ** 2
        return top / bottom
