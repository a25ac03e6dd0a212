"""Noise schedules `t -> (alpha_t, sigma_t)`, and the conventions of the library.

Conventions, stated here once and kept everywhere:

- Time `t` is in [0, 1]: **t = 0 is data, t = 1 is noise**. Samplers go from `t` down to
  `s < t`.
- A noised example is `z_t = alpha_t x + sigma_t eps` with `eps ~ N(0, I)`.
- `logsnr_t = log(alpha_t^2 / sigma_t^2)` falls with `t`. It alone decides what is
  learned and sampled; the scale `sqrt(alpha^2 + sigma^2)` is free.
- Arrays have shape `[*batch, *event]`, times are scalar or `[*batch]`.

A schedule is any object with the four methods of `Schedule`, elementwise in their
argument. Where exact arithmetic gives a finite value, they give one in float32, t = 0
and t = 1 included; `logsnr` is infinite where `sigma` or `alpha` is zero.
"""

from typing import Protocol

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from diffusionflow._dataclass import check_bound, register
from diffusionflow._numeric import at_least_float32


class Schedule(Protocol):
    """What every schedule offers; `derivatives` may be added as a closed form."""

    def alpha(self, t: ArrayLike) -> Array:
        """Coefficient of the data at time `t`."""

    def sigma(self, t: ArrayLike) -> Array:
        """Coefficient of the noise at time `t`."""

    def logsnr(self, t: ArrayLike) -> Array:
        """`log(alpha_t^2 / sigma_t^2)`, strictly decreasing."""

    def inverse_logsnr(self, logsnr: ArrayLike) -> Array:
        """The time at which the log-SNR is `logsnr`."""


def derivatives(schedule: Schedule, t: ArrayLike) -> tuple[Array, Array]:
    """`(d alpha / dt, d sigma / dt)` of any schedule.

    Args:
      schedule: any schedule; its method `derivatives(t)` is used where it has one,
        forward-mode differentiation elsewhere.
      t: times in [0, 1], any shape.

    Returns:
      Two arrays of the shape of `t`. They are infinite where the exact derivative is,
      such as `d sigma / dt` of `LinearBeta` at t = 0.
    """
    if hasattr(schedule, "derivatives"):
        return schedule.derivatives(t)
    t = at_least_float32(t)
    one = jnp.ones_like(t)
    return (
        jax.jvp(schedule.alpha, (t,), (one,))[1],
        jax.jvp(schedule.sigma, (t,), (one,))[1],
    )


def dlogsnr_dt(schedule: Schedule, t: ArrayLike) -> Array:
    """`2 (alpha' / alpha - sigma' / sigma)`, negative; the terms never cancel.

    Args:
      schedule: any schedule.
      t: times in [0, 1], any shape.

    Returns:
      An array of the shape of `t`; -inf where `alpha` or `sigma` is zero.
    """
    dalpha, dsigma = derivatives(schedule, t)
    return 2 * (dalpha / schedule.alpha(t) - dsigma / schedule.sigma(t))


@register
class FlowMatching:
    """Straight paths: `alpha = 1 - t`, `sigma = t`, `logsnr = 2 log((1 - t) / t)`.

    Also called rectified flow and conditional optimal transport.

    Source: Lipman et al. 2022, arXiv 2210.02747, eq. 20 with sigma_min = 0 and the time
    reversed; Liu et al. 2022, arXiv 2209.03003.
    """

    def alpha(self, t: ArrayLike) -> Array:
        return 1 - at_least_float32(t)

    def sigma(self, t: ArrayLike) -> Array:
        return at_least_float32(t)

    def logsnr(self, t: ArrayLike) -> Array:
        t = at_least_float32(t)
        return 2 * (jnp.log1p(-t) - jnp.log(t))

    def inverse_logsnr(self, logsnr: ArrayLike) -> Array:
        return jax.nn.sigmoid(-at_least_float32(logsnr) / 2)

    def derivatives(self, t: ArrayLike) -> tuple[Array, Array]:
        """See the function `derivatives`."""
        one = jnp.ones_like(at_least_float32(t))
        return -one, one


@register
class Cosine:
    """`alpha = cos(theta)`, `sigma = sin(theta)`, with the angle `theta` linear in t.

    `theta = a + (b - a) t`, `a = atan(e^(-logsnr_max / 2))`,
    `b = atan(e^(-logsnr_min / 2))`. The defaults give the exact `theta = pi t / 2`;
    finite bounds truncate the log-SNR to [logsnr_min, logsnr_max].

    Args:
      logsnr_min: log-SNR at t = 1.
      logsnr_max: log-SNR at t = 0.

    Raises:
      ValueError: `logsnr_min >= logsnr_max`.

    Source: Nichol and Dhariwal 2021, arXiv 2102.09672, eq. 17 with offset 0; truncation
    as in Hoogeboom et al. 2023, arXiv 2301.11093, appendix. Both are written as sines
    of angles measured from their own end, so alpha(1) = 0 and sigma(0) = 0 exactly.
    """

    logsnr_min: float = -jnp.inf
    logsnr_max: float = jnp.inf

    def __post_init__(self) -> None:
        if isinstance(self.logsnr_max, (int, float)):
            below = lambda low: low < self.logsnr_max
            bound = f"below logsnr_max={self.logsnr_max!r}"
            check_bound("logsnr_min", self.logsnr_min, below, bound)

    def _angles(self) -> tuple[Array, Array, Array]:
        """Angle of the data end, of the noise end from pi / 2, and between the two."""
        data_end = jnp.arctan(jnp.exp(-at_least_float32(self.logsnr_max) / 2))
        noise_end = jnp.arctan(jnp.exp(at_least_float32(self.logsnr_min) / 2))
        return data_end, noise_end, jnp.pi / 2 - data_end - noise_end

    def alpha(self, t: ArrayLike) -> Array:
        _, noise_end, width = self._angles()
        return jnp.sin(noise_end + width * (1 - at_least_float32(t)))

    def sigma(self, t: ArrayLike) -> Array:
        data_end, _, width = self._angles()
        return jnp.sin(data_end + width * at_least_float32(t))

    def logsnr(self, t: ArrayLike) -> Array:
        return 2 * (jnp.log(self.alpha(t)) - jnp.log(self.sigma(t)))

    def inverse_logsnr(self, logsnr: ArrayLike) -> Array:
        data_end, _, width = self._angles()
        return (jnp.arctan(jnp.exp(-at_least_float32(logsnr) / 2)) - data_end) / width

    def derivatives(self, t: ArrayLike) -> tuple[Array, Array]:
        """See the function `derivatives`."""
        width = self._angles()[2]
        return -width * self.sigma(t), width * self.alpha(t)


@register
class LinearBeta:
    """Variance preserving, `beta(t) = beta_min + (beta_max - beta_min) t`.

    `alpha = exp(-B / 2)`, `sigma = sqrt(-expm1(-B))`,
    `B(t) = beta_min t + (beta_max - beta_min) t^2 / 2`, `logsnr = -log expm1(B)`.

    Args:
      beta_min: noise rate at t = 0, positive.
      beta_max: noise rate at t = 1, positive.

    Raises:
      ValueError: a rate is not positive.

    Source: Song et al. 2021, arXiv 2011.13456, the VP SDE; the continuous limit of the
    schedule of Ho et al. 2020, arXiv 2006.11239.
    """

    beta_min: float = 0.1
    beta_max: float = 20.0

    def __post_init__(self) -> None:
        positive = lambda beta: beta > 0
        check_bound("beta_min", self.beta_min, positive, "positive")
        check_bound("beta_max", self.beta_max, positive, "positive")

    def _integral(self, t: ArrayLike) -> Array:
        t = at_least_float32(t)
        return self.beta_min * t + (self.beta_max - self.beta_min) * t**2 / 2

    def alpha(self, t: ArrayLike) -> Array:
        return jnp.exp(-self._integral(t) / 2)

    def sigma(self, t: ArrayLike) -> Array:
        integral = self._integral(t)
        noisy = integral > 0  # the root has no derivative at 0, in a field it is 0
        return jnp.where(noisy, jnp.sqrt(-jnp.expm1(-jnp.where(noisy, integral, 1))), 0)

    def logsnr(self, t: ArrayLike) -> Array:
        integral = self._integral(t)
        return -integral - jnp.log(-jnp.expm1(-integral))

    def inverse_logsnr(self, logsnr: ArrayLike) -> Array:
        integral = jax.nn.softplus(-at_least_float32(logsnr))
        slope = self.beta_max - self.beta_min
        root = jnp.sqrt(self.beta_min**2 + 2 * slope * integral)
        return 2 * integral / (self.beta_min + root)

    def derivatives(self, t: ArrayLike) -> tuple[Array, Array]:
        """See the function `derivatives`."""
        beta = self.beta_min + (self.beta_max - self.beta_min) * at_least_float32(t)
        alpha = self.alpha(t)
        return -beta * alpha / 2, beta * alpha**2 / (2 * self.sigma(t))
