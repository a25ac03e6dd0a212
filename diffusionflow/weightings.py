"""Factors on a kind's squared error.

A weighting names the `kind` whose error it multiplies and gives the factor
`weighting(t, schedule)`. Together with the density of training times it makes the
objective; `objectives.total_weight` gives both on one scale. The network may predict
any other kind: the loss converts the error, so one weighting is one objective.

With SNR = alpha^2 / sigma^2 and l its logarithm, `W` below is the weight on the eps
error and p(l) the density of training noise levels. The names say which form a source
prints; the `kind` is the one on which the factor is finite at both ends wherever the
weighted error is. Two conventions are kept apart by name:

- `ELBO`, `Likelihood`, `Sigmoid` and `LogSNR(..., jacobian=True)` contain the factor
  `-dlogsnr/dt`: with uniform times, W is the function of l alone and the schedule drops
  out. The bound itself is half of that integral, summed over the event.
- All others are factors on an error, and W is proportional to p(l).
"""

from typing import Any

import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from diffusionflow import predictions, schedules
from diffusionflow._dataclass import as_callable, check_bound, register, static
from diffusionflow._numeric import at_least_float32, in_float64
from diffusionflow.predictions import Kind, as_kind
from diffusionflow.schedules import Schedule


@register
class Mse:
    """The plain squared error of a kind: factor 1.

    `Mse(edm_f(sigma_data))` is EDM's loss in a form that is finite at both ends.

    Args:
      kind: whose error is squared; it need not be what the network predicts.

    Raises:
      ValueError: the kind is unknown.
    """

    kind: Any

    def __post_init__(self) -> None:
        object.__setattr__(self, "kind", as_kind(self.kind))

    def __call__(self, t: ArrayLike, schedule: Schedule) -> Array:
        """The factor at times `t`, of the shape of `t`."""
        del schedule
        return jnp.ones_like(at_least_float32(t))


@register
class Likelihood:
    """`g^2` on the score error; `g^2 = -sigma^2 dlogsnr/dt`. `W = 1` at uniform t.

    Infinite where the SDE is, such as at t = 1 of flow matching; `ELBO` is the same
    weight in a form that stays finite there.

    Source: Song et al. 2021, arXiv 2101.09258, likelihood weighting.
    """

    @property
    def kind(self) -> Kind:
        """Score."""
        return Kind("score")

    def __call__(self, t: ArrayLike, schedule: Schedule) -> Array:
        """As `Mse.__call__`."""
        return schedules.g2(schedule, t)


@register
class ELBO:
    """`-dlogsnr/dt` on the eps error, `W = 1` at uniform t: the variational bound.

    The diffusion term of the bound in nats is `1/2 int E ||eps_hat - eps||^2 dlogsnr`
    with the norm summed over the event: the mean loss times half the event's size.
    Written on the error of v, `2 alpha (alpha sigma' - sigma alpha') / (sigma
    (alpha^2 + sigma^2)^2)`, it is finite where alpha = 0.

    Source: Kingma et al. 2021, arXiv 2107.00630, the continuous-time bound.
    """

    @property
    def kind(self) -> Kind:
        """v."""
        return Kind("v")

    def __call__(self, t: ArrayLike, schedule: Schedule) -> Array:
        """As `Mse.__call__`."""
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        top = 2 * alpha * _turn(t, schedule)
        return top / (sigma * (alpha**2 + sigma**2) ** 2)


@register
class LogSNR:
    """A user's function of the log-SNR, `weight_fn(logsnr) -> factor`.

    With the Jacobian, the factor is `weight_fn(l) (-dlogsnr/dt)`, so that at uniform t
    and kind "eps" `W = weight_fn` whatever the schedule. Without, it is
    `weight_fn(l)` on the squared error of `kind`.

    Args:
      weight_fn: elementwise; a pytree keeps its numbers as data under `jit`.
      kind: whose error is multiplied.
      jacobian: whether `-dlogsnr/dt` is a factor, static.

    Raises:
      ValueError: the kind is unknown.

    Source: Kingma and Gao 2023, arXiv 2303.00848, weighted loss.
    """

    weight_fn: Any
    kind: Any = "eps"
    jacobian: bool = static(default=True)

    def __post_init__(self) -> None:
        object.__setattr__(self, "weight_fn", as_callable(self.weight_fn))
        object.__setattr__(self, "kind", as_kind(self.kind))

    def __call__(self, t: ArrayLike, schedule: Schedule) -> Array:
        """As `Mse.__call__`."""
        weight = self.weight_fn(schedule.logsnr(t))
        return weight * -schedules.dlogsnr_dt(schedule, t) if self.jacobian else weight


@register
class Sigmoid:
    """`W = sigmoid(bias - l)` at uniform t: contains `-dlogsnr/dt`.

    Equal to `e^bias sigmoid(l - bias) (-dlogsnr/dt)` on the x error. Written on the
    error of v it is finite at both ends.

    Args:
      bias: log-SNR at which W is one half of its limit at the noise end.

    Source: Kingma and Gao 2023, arXiv 2303.00848; Hoogeboom et al. 2024,
    arXiv 2410.19324.
    """

    bias: float = 0.0

    @property
    def kind(self) -> Kind:
        """v."""
        return Kind("v")

    def __call__(self, t: ArrayLike, schedule: Schedule) -> Array:
        """As `Mse.__call__`."""
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        scale = jnp.exp(at_least_float32(self.bias)).astype(alpha.dtype)
        noisy = sigma > 0  # sigma' may be infinite where sigma = 0, g^2 where alpha = 0
        t = at_least_float32(t)
        turn = sigma * _turn(jnp.where(noisy, t, 0.5), schedule)
        same = alpha / 2 * schedules.g2(schedule, jnp.where(noisy, 0.5, t))
        sigma_turn = jnp.where(noisy, turn, same)
        top = 2 * scale * alpha * sigma_turn
        bottom = (alpha**2 + scale * sigma**2) * (alpha**2 + sigma**2) ** 2
        return top / bottom


@register
class EDM:
    """`(rho^2 + sigma_data^2) / (rho sigma_data)^2` on the x error.

    rho = sigma / alpha is the noise level relative to the signal.

    Infinite at sigma = 0; `Mse(edm_f(sigma_data))` is the same weight in a form that is
    finite at both ends.

    Args:
      sigma_data: standard deviation of the data, positive.

    Raises:
      ValueError: `sigma_data` is not positive.

    Source: Karras et al. 2022, arXiv 2206.00364, table 1, loss weighting.
    """

    sigma_data: float = 0.5

    def __post_init__(self) -> None:
        positive = lambda std: std > 0
        check_bound("sigma_data", self.sigma_data, positive, "positive")

    @property
    def kind(self) -> Kind:
        """x."""
        return Kind("x")

    def __call__(self, t: ArrayLike, schedule: Schedule) -> Array:
        """As `Mse.__call__`."""
        signal = self.sigma_data * schedule.alpha(t)
        sigma = schedule.sigma(t)
        return (sigma**2 + signal**2) / (sigma * self.sigma_data) ** 2


@register
class P2:
    """`(k + SNR)^-gamma` on the eps error: perception prioritised.

    Args:
      k: positive.
      gamma: at least 0; 0 is the plain eps error.

    Raises:
      ValueError: a value is out of its bound.

    Source: Choi et al. 2022, arXiv 2204.00227.
    """

    k: float = 1.0
    gamma: float = 1.0

    def __post_init__(self) -> None:
        check_bound("k", self.k, lambda k: k > 0, "positive")
        check_bound("gamma", self.gamma, lambda gamma: gamma >= 0, "at least 0")

    @property
    def kind(self) -> Kind:
        """eps."""
        return Kind("eps")

    def __call__(self, t: ArrayLike, schedule: Schedule) -> Array:
        """As `Mse.__call__`."""
        sigma = schedule.sigma(t)
        norm = jnp.sqrt(self.k * sigma**2 + schedule.alpha(t) ** 2)
        return (sigma / norm) ** (2 * self.gamma)


@register
class MinSNR:
    """`min(SNR, gamma)` on the x error: `W = min(1, gamma / SNR) p(l)`.

    One weighting of the implied x, whatever the network predicts: it is
    `min(SNR, gamma) / SNR` on the eps error, and `min(SNR, gamma) / (SNR + 1)` on that
    of v where alpha^2 + sigma^2 = 1.

    Args:
      gamma: the largest weight, positive.

    Raises:
      ValueError: `gamma` is not positive.

    Source: Hang et al. 2023, arXiv 2303.09556.
    """

    gamma: float = 5.0

    def __post_init__(self) -> None:
        check_bound("gamma", self.gamma, lambda gamma: gamma > 0, "positive")

    @property
    def kind(self) -> Kind:
        """x."""
        return Kind("x")

    def __call__(self, t: ArrayLike, schedule: Schedule) -> Array:
        """As `Mse.__call__`."""
        signal, variance = schedule.alpha(t) ** 2, schedule.sigma(t) ** 2
        below = signal < self.gamma * variance  # never where sigma = 0
        snr = signal / jnp.where(below, variance, 1)
        return jnp.where(below, snr, self.gamma)


@register
class SoftMinSNR:
    """`gamma SNR / (gamma + SNR)` on the x error: `W = sigmoid(log gamma - l) p(l)`.

    A smooth `MinSNR`, one weighting of the implied x in the same sense.

    Args:
      gamma: the limit at the data end, positive; 1 / sigma_data^2 in k-diffusion.

    Raises:
      ValueError: `gamma` is not positive.

    Source: Crowson et al. 2024, arXiv 2401.11605, soft-min-SNR.
    """

    gamma: float = 4.0

    def __post_init__(self) -> None:
        check_bound("gamma", self.gamma, lambda gamma: gamma > 0, "positive")

    @property
    def kind(self) -> Kind:
        """x."""
        return Kind("x")

    def __call__(self, t: ArrayLike, schedule: Schedule) -> Array:
        """As `Mse.__call__`."""
        signal, variance = schedule.alpha(t) ** 2, schedule.sigma(t) ** 2
        return self.gamma * signal / (self.gamma * variance + signal)


@register
class TruncatedSNR:
    """`max(SNR, 1)` on the x error: `W = max(1, 1 / SNR) p(l)`.

    Written on the error of v, `max(alpha^2, sigma^2) / (alpha^2 + sigma^2)^2`, it is
    finite at both ends.

    Source: Salimans and Ho 2022, arXiv 2202.00512, truncated SNR weighting.
    """

    @property
    def kind(self) -> Kind:
        """v."""
        return Kind("v")

    def __call__(self, t: ArrayLike, schedule: Schedule) -> Array:
        """As `Mse.__call__`."""
        signal, variance = schedule.alpha(t) ** 2, schedule.sigma(t) ** 2
        return jnp.maximum(signal, variance) / (signal + variance) ** 2


@register
class Monotone:
    """The non-increasing variant of another weighting: `W = max_{l' >= l} W_base(l')`.

    W_base includes the density of times, so that is an argument; the objective's own
    times must be the same. The total weight is flat on the noisy side of the peak and
    unchanged on the other: a mixture of bounds of noised data. The factor on the eps
    error is `W |dlogsnr/dt| / density`.

    The maximum is taken at `logsnr` itself and at evenly spaced log-SNRs above it, so
    its relative error is of the order of their squared distance (3e-6 at the default
    on EDM's weight).

    Args:
      base: any weighting.
      times: density of training times.
      logsnr_min: lower end of the search.
      logsnr_max: upper end; above it W_base is left as it is.
      num_points: of the search, at least 2.

    Raises:
      ValueError: fewer than two points, or `logsnr_min >= logsnr_max`.

    Source: Kingma and Gao 2023, arXiv 2303.00848, monotonic weighting.
    """

    base: Any
    times: Any
    logsnr_min: float = -10.0
    logsnr_max: float = 10.0
    num_points: int = static(default=2001)

    def __post_init__(self) -> None:
        check_bound("num_points", self.num_points, lambda n: n >= 2, "at least 2")
        if isinstance(self.logsnr_max, (int, float)):
            below = lambda low: low < self.logsnr_max
            bound = f"below logsnr_max={self.logsnr_max!r}"
            check_bound("logsnr_min", self.logsnr_min, below, bound)

    @property
    def kind(self) -> Kind:
        """eps."""
        return Kind("eps")

    def __call__(self, t: ArrayLike, schedule: Schedule) -> Array:
        """As `Mse.__call__`."""
        t = at_least_float32(t)
        logsnr = schedule.logsnr(t)
        points, peaks = in_float64(_peaks, self, schedule)
        points, peaks = (jnp.asarray(part, t.dtype) for part in (points, peaks))
        place = jnp.searchsorted(points, logsnr)
        above = jnp.where(
            place < points.size, peaks[jnp.minimum(place, peaks.size - 1)], 0
        )
        weight = jnp.maximum(above, weight_on_eps(self.base, self.times, t, schedule))
        slope = jnp.abs(schedules.dlogsnr_dt(schedule, t))
        return weight * slope / self.times.density(t, schedule)


def weight_on_eps(
    weighting: Any, times: Any, t: ArrayLike, schedule: Schedule
) -> Array:
    """`W = w(t) (D / alpha)^2 p(t) / |dlogsnr/dt|`, the total weight at times `t`.

    Args:
      weighting: w, on the error of its own kind.
      times: the density p of training times.
      t: any shape, inside (0, 1).
      schedule: any schedule.

    Returns:
      An array of the shape of `t`.
    """
    ratio = predictions.mse_ratio(weighting.kind, t, schedule=schedule)
    density = times.density(t, schedule)
    slope = jnp.abs(schedules.dlogsnr_dt(schedule, t))
    return weighting(t, schedule) * ratio * density / slope


def _peaks(monotone: Monotone, schedule: Schedule) -> tuple[Array, Array]:
    """Log-SNRs, rising, and the largest weight of the base at or above each."""
    points = jnp.linspace(monotone.logsnr_min, monotone.logsnr_max, monotone.num_points)
    t = schedule.inverse_logsnr(points)
    weight = weight_on_eps(monotone.base, monotone.times, t, schedule)
    return points, lax.cummax(weight, reverse=True)


def _turn(t: ArrayLike, schedule: Schedule) -> Array:
    """`alpha sigma' - sigma alpha' = -alpha sigma dlogsnr/dt / 2`."""
    dalpha, dsigma = schedules.derivatives(schedule, t)
    return schedule.alpha(t) * dsigma - schedule.sigma(t) * dalpha
