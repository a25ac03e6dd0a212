"""What a schedule is, and what can be derived from any."""

from typing import Protocol

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from diffusionflow._numeric import at_least_float32, root


class Schedule(Protocol):
    """What every schedule offers.

    `derivatives`, `square_derivatives`, `f`, `g2` and `dlogsnr_dt` may be added as
    closed forms, each a method of `t`; the functions of these names prefer them. So may
    the attribute `family`, which is what `Shifted` keeps: "vp" where
    alpha^2 + sigma^2 = 1, "flow" for straight paths.
    """

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


def square_derivatives(schedule: Schedule, t: ArrayLike) -> tuple[Array, Array]:
    """`(d alpha^2 / dt, d sigma^2 / dt)`, finite also where a root has no slope.

    Such as at t = 1 of `Sigmoid`, where alpha is 0 and its derivative infinite.

    Args:
      schedule: any schedule; its method `square_derivatives(t)` is used where it has
        one, `(2 alpha alpha', 2 sigma sigma')` elsewhere.
      t: times in [0, 1], any shape.

    Returns:
      Two arrays of the shape of `t`.
    """
    if hasattr(schedule, "square_derivatives"):
        return schedule.square_derivatives(t)
    dalpha, dsigma = derivatives(schedule, t)
    return 2 * schedule.alpha(t) * dalpha, 2 * schedule.sigma(t) * dsigma


def f(schedule: Schedule, t: ArrayLike) -> Array:
    """`alpha' / alpha`: the drift coefficient of `dz = f z dt + g dw`, dt > 0.

    Args:
      schedule: any schedule; its method `f(t)` is used where it has one.
      t: times in [0, 1], any shape.

    Returns:
      An array of the shape of `t`, per unit of time; -inf where `alpha` is zero.
    """
    if hasattr(schedule, "f"):
        return schedule.f(t)
    return derivatives(schedule, t)[0] / schedule.alpha(t)


def g2(schedule: Schedule, t: ArrayLike) -> Array:
    """`2 sigma (sigma' - f sigma)`: the squared diffusion of `dz = f z dt + g dw`.

    The two terms add up where alpha falls and sigma rises.

    Args:
      schedule: any schedule; its method `g2(t)` is used where it has one.
      t: times in [0, 1], any shape.

    Returns:
      An array of the shape of `t`, per unit of time; infinite where `alpha` is zero.

    Source: Kingma et al. 2021, arXiv 2107.00630, the forward process as an SDE.
    """
    if hasattr(schedule, "g2"):
        return schedule.g2(t)
    sigma = schedule.sigma(t)
    return 2 * sigma * (derivatives(schedule, t)[1] - f(schedule, t) * sigma)


def dlogsnr_dt(schedule: Schedule, t: ArrayLike) -> Array:
    """`2 (alpha' / alpha - sigma' / sigma)`, negative.

    The terms never cancel where alpha falls and sigma rises.

    Args:
      schedule: any schedule; its method `dlogsnr_dt(t)` is used where it has one.
      t: times in [0, 1], any shape.

    Returns:
      An array of the shape of `t`; -inf where `alpha` or `sigma` is zero.
    """
    if hasattr(schedule, "dlogsnr_dt"):
        return schedule.dlogsnr_dt(t)
    dalpha, dsigma = derivatives(schedule, t)
    return 2 * (dalpha / schedule.alpha(t) - dsigma / schedule.sigma(t))


def noise_level(schedule: Schedule, t: ArrayLike) -> Array:
    """`sigma / (alpha + sigma) = sigmoid(-logsnr / 2)`, in [0, 1]: names the log-SNR.

    Args:
      schedule: any schedule.
      t: times in [0, 1], any shape.

    Returns:
      An array of the shape of `t`; on flow matching it is `t` itself.
    """
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    return sigma / (alpha + sigma)


def z_std(schedule: Schedule, t: ArrayLike, sigma_data: ArrayLike = 1.0) -> Array:
    """`sqrt(sigma_data^2 alpha^2 + sigma^2)`: the standard deviation of z.

    Args:
      schedule: any schedule.
      t: times in [0, 1], any shape.
      sigma_data: standard deviation of the data.

    Returns:
      An array of the shape of `t`.
    """
    return jnp.sqrt((sigma_data * schedule.alpha(t)) ** 2 + schedule.sigma(t) ** 2)


class FromLogSNR:
    """Variance preserving, from `logsnr(t)` and `dlogsnr_dt(t)`.

    `alpha = sqrt(sigmoid(logsnr))`, `sigma = sqrt(sigmoid(-logsnr))`, hence
    `g^2 = -sigma^2 logsnr'` and `f = -g^2 / 2`. Where the log-SNR is infinite at an
    end, alpha and sigma are taken to reach it faster than any power of the distance.
    """

    family = "vp"

    def alpha(self, t: ArrayLike) -> Array:
        return jnp.exp(jax.nn.log_sigmoid(self.logsnr(t)) / 2)

    def sigma(self, t: ArrayLike) -> Array:
        return jnp.exp(jax.nn.log_sigmoid(-self.logsnr(t)) / 2)

    def derivatives(self, t: ArrayLike) -> tuple[Array, Array]:
        """See the function `derivatives`."""
        alpha, sigma = self.alpha(t), self.sigma(t)
        half = jnp.where(alpha * sigma > 0, self.dlogsnr_dt(t), 0) / 2
        return alpha * sigma**2 * half, -sigma * alpha**2 * half

    def f(self, t: ArrayLike) -> Array:
        """See the function `f`."""
        return -self.g2(t) / 2

    def g2(self, t: ArrayLike) -> Array:
        """See the function `g2`."""
        sigma2 = self.sigma(t) ** 2
        return jnp.where(sigma2 > 0, -sigma2 * self.dlogsnr_dt(t), 0)


class FromSquares:
    """Variance preserving, from `squares(t)` and `rate(t)`.

    `squares` is `(alpha^2, sigma^2)`, each without cancellation, and `rate` is
    `(sigma^2)' = -(alpha^2)'`.
    """

    family = "vp"

    def alpha(self, t: ArrayLike) -> Array:
        return root(self.squares(t)[0])

    def sigma(self, t: ArrayLike) -> Array:
        return root(self.squares(t)[1])

    def logsnr(self, t: ArrayLike) -> Array:
        alpha2, sigma2 = self.squares(t)
        return jnp.log(alpha2) - jnp.log(sigma2)

    def derivatives(self, t: ArrayLike) -> tuple[Array, Array]:
        """See the function `derivatives`."""
        half = self.rate(t) / 2
        return -half / self.alpha(t), half / self.sigma(t)

    def square_derivatives(self, t: ArrayLike) -> tuple[Array, Array]:
        """See the function `square_derivatives`."""
        rate = self.rate(t)
        return -rate, rate

    def f(self, t: ArrayLike) -> Array:
        """See the function `f`."""
        return -self.g2(t) / 2

    def g2(self, t: ArrayLike) -> Array:
        """See the function `g2`."""
        return self.rate(t) / self.squares(t)[0]

    def dlogsnr_dt(self, t: ArrayLike) -> Array:
        """See the function `dlogsnr_dt`."""
        alpha2, sigma2 = self.squares(t)
        return -self.rate(t) / (alpha2 * sigma2)
