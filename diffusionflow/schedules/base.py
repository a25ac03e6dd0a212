"""The base class of noise schedules, and two families of variance preserving ones."""

from typing import Any

import jax
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from diffusionflow import _xp as xp
from diffusionflow._dataclass import QuietMethods, check_instance, is_traced
from diffusionflow._numeric import derivative, in_float64, root, solve_falling


class Schedule(QuietMethods):
    """Base class of noise schedules: subclasses give `alpha(t)` and `sigma(t)`.

    Everything else follows from these two by default, and a closed form overrides it:
    `logsnr`, `inverse_logsnr` (by bisection), `derivatives` (by forward-mode
    differentiation), and from the derivatives `square_derivatives`, `f`, `g2` and
    `dlogsnr_dt`. All methods are elementwise: `t` has any shape, and so has the result.
    Concrete times give NumPy float64, `jax.Array`s give `jax.Array`s. A method that is
    written with `jax.numpy` gives JAX's numbers when it is called alone; tables, plans
    and what follows from it are computed in float64.

    `family` is what `Shifted` keeps: "vp" where alpha^2 + sigma^2 = 1, "flow" for
    straight paths, None for others.

    Register subclasses with `diffusionflow.register`, so that they can be passed to
    jitted functions and compared.

    Example:
      >>> import diffusionflow
      >>> @diffusionflow.register
      ... class Quadratic(Schedule):
      ...     power: float = 2.0
      ...
      ...     def alpha(self, t):
      ...         return 1 - t**self.power
      ...
      ...     def sigma(self, t):
      ...         return t**self.power
      >>> print(Quadratic().logsnr(0.5), Quadratic().g2(0.5))
      2.197224577336219 0.6666666666666666
    """

    family: str | None = None

    def alpha(self, t: ArrayLike) -> Array:
        """Returns the coefficient of the data at time `t`."""
        raise NotImplementedError(f"{type(self).__name__} must define alpha(t)")

    def sigma(self, t: ArrayLike) -> Array:
        """Returns the coefficient of the noise at time `t`."""
        raise NotImplementedError(f"{type(self).__name__} must define sigma(t)")

    def logsnr(self, t: ArrayLike) -> Array:
        """Computes log-SNR `log(alpha_t^2 / sigma_t^2)`, strictly decreasing in `t`."""
        return 2 * (xp.log(self.alpha(t)) - xp.log(self.sigma(t)))

    def inverse_logsnr(self, logsnr: ArrayLike) -> Array:
        """Finds the time at which the log-SNR is `logsnr`.

        By default by bisection; beyond a finite end the log-SNR is continued linearly.
        """
        return solve_falling(self.logsnr, logsnr, 0.0, 1.0, self.dlogsnr_dt)

    def logsnr_range(self) -> tuple[float, float]:
        """Returns the range of the log-SNR: `(logsnr at t = 1, logsnr at t = 0)`."""
        ends = in_float64(lambda own: tuple(map(own.logsnr, (1.0, 0.0))), self)
        return ends if is_traced(ends) else (float(ends[0]), float(ends[1]))

    def derivatives(self, t: ArrayLike) -> tuple[Array, Array]:
        """Computes the time derivatives `(d alpha / dt, d sigma / dt)`.

        Infinite where the exact derivative is, such as `d sigma / dt` of `LinearBeta`
        at t = 0. By default by forward-mode differentiation.
        """
        return (
            derivative(type(self).alpha, self, t),
            derivative(type(self).sigma, self, t),
        )

    def square_derivatives(self, t: ArrayLike) -> tuple[Array, Array]:
        """Computes the time derivatives `(d alpha^2 / dt, d sigma^2 / dt)`.

        A closed form is finite also where alpha or sigma has infinite slope, such as at
        t = 1 of `Sigmoid`, where alpha is 0 and its derivative infinite.
        """
        dalpha, dsigma = self.derivatives(t)
        return 2 * self.alpha(t) * dalpha, 2 * self.sigma(t) * dsigma

    def f(self, t: ArrayLike) -> Array:
        """Computes the SDE's drift coefficient `alpha' / alpha`, f in `f z dt + g dw`.

        Per unit of time, dt > 0; -inf where `alpha` is zero.
        """
        return self.derivatives(t)[0] / self.alpha(t)

    def g2(self, t: ArrayLike) -> Array:
        """Computes the squared diffusion coefficient g^2, `2 sigma (sigma' - f sigma)`.

        Per unit of time; infinite where `alpha` is zero. The two terms add up where
        alpha falls and sigma rises.

        Source: Kingma et al. 2021, arXiv 2107.00630, the forward process as an SDE.
        """
        sigma = self.sigma(t)
        return 2 * sigma * (self.derivatives(t)[1] - self.f(t) * sigma)

    def dlogsnr_dt(self, t: ArrayLike) -> Array:
        """Computes the log-SNR slope, `2 (alpha' / alpha - sigma' / sigma)`, negative.

        -inf where `alpha` or `sigma` is zero. The terms never cancel where alpha falls
        and sigma rises.
        """
        dalpha, dsigma = self.derivatives(t)
        return 2 * (dalpha / self.alpha(t) - dsigma / self.sigma(t))

    def noise_level(self, t: ArrayLike) -> Array:
        """Computes the noise level `sigma / (alpha + sigma) = sigmoid(-logsnr / 2)`.

        A function of the log-SNR alone; on flow matching it is `t` itself.
        """
        alpha, sigma = self.alpha(t), self.sigma(t)
        return sigma / (alpha + sigma)

    def z_std(self, t: ArrayLike, sigma_data: ArrayLike = 1.0) -> Array:
        """Computes the standard deviation of z, `sqrt(sigma_data^2 alpha^2 + sigma^2)`.

        Args:
          t: times in [0, 1], any shape.
          sigma_data: standard deviation of the data.

        Returns:
          An array of the shape of `t`.
        """
        return xp.sqrt((sigma_data * self.alpha(t)) ** 2 + self.sigma(t) ** 2)


def as_schedule(schedule: Schedule) -> Schedule:
    """Checks that `schedule` is an instance of `Schedule`, and returns it.

    Args:
      schedule: the value to check.

    Raises:
      ValueError: it is a string, a class, a function or another object.
    """
    if isinstance(schedule, Schedule):
        return schedule
    check_instance("schedule", schedule, "schedules.FlowMatching()")
    raise ValueError(
        f"schedule={schedule!r}: must be an instance of schedules.Schedule; subclass "
        "it and define alpha(t) and sigma(t)"
    )


class FromLogSNR(Schedule):
    """Variance preserving schedule from `logsnr(t)` and `dlogsnr_dt(t)`.

    `alpha = sqrt(sigmoid(logsnr))`, `sigma = sqrt(sigmoid(-logsnr))`, hence
    `g^2 = -sigma^2 logsnr'` and `f = -g^2 / 2`. Where the log-SNR is infinite at an
    end, alpha and sigma are taken to reach it faster than any power of the distance.
    """

    family = "vp"

    def alpha(self, t: ArrayLike) -> Array:
        return xp.exp(xp.log_sigmoid(self.logsnr(t)) / 2)

    def sigma(self, t: ArrayLike) -> Array:
        return xp.exp(xp.log_sigmoid(-self.logsnr(t)) / 2)

    def derivatives(self, t: ArrayLike) -> tuple[Array, Array]:
        alpha, sigma = self.alpha(t), self.sigma(t)
        half = xp.where(alpha * sigma > 0, self.dlogsnr_dt(t), 0) / 2
        return alpha * sigma**2 * half, -sigma * alpha**2 * half

    def f(self, t: ArrayLike) -> Array:
        return -self.g2(t) / 2

    def g2(self, t: ArrayLike) -> Array:
        sigma2 = self.sigma(t) ** 2
        return xp.where(sigma2 > 0, -sigma2 * self.dlogsnr_dt(t), 0)


class FromSquares(Schedule):
    """Variance preserving schedule from `squares(t)` and `rate(t)`.

    `squares` is `(alpha^2, sigma^2)`, each without cancellation, and `rate` is
    `(sigma^2)' = -(alpha^2)'`.
    """

    family = "vp"

    def squares(self, t: ArrayLike) -> tuple[Array, Array]:
        """Computes `alpha^2` and `sigma^2` at time `t`."""
        raise NotImplementedError(f"{type(self).__name__} must define squares(t)")

    def rate(self, t: ArrayLike) -> Array:
        """Computes `(sigma^2)'` at time `t`."""
        raise NotImplementedError(f"{type(self).__name__} must define rate(t)")

    def alpha(self, t: ArrayLike) -> Array:
        return root(self.squares(t)[0])

    def sigma(self, t: ArrayLike) -> Array:
        return root(self.squares(t)[1])

    def logsnr(self, t: ArrayLike) -> Array:
        alpha2, sigma2 = self.squares(t)
        return xp.log(alpha2) - xp.log(sigma2)

    def derivatives(self, t: ArrayLike) -> tuple[Array, Array]:
        half = self.rate(t) / 2
        return -half / self.alpha(t), half / self.sigma(t)

    def square_derivatives(self, t: ArrayLike) -> tuple[Array, Array]:
        rate = self.rate(t)
        return -rate, rate

    def f(self, t: ArrayLike) -> Array:
        return -self.g2(t) / 2

    def g2(self, t: ArrayLike) -> Array:
        return self.rate(t) / self.squares(t)[0]

    def dlogsnr_dt(self, t: ArrayLike) -> Array:
        alpha2, sigma2 = self.squares(t)
        return -self.rate(t) / (alpha2 * sigma2)


def check_same_schedule(own: Schedule, given: Schedule) -> None:
    """Checks that a schedule is the one that a denoiser belongs to.

    Two schedules are the same if alpha and sigma agree to 1e-4. Traced values cannot be
    checked and pass.

    Args:
      own: schedule of the denoiser.
      given: schedule that it is used on.

    Raises:
      ValueError: they differ.
    """
    as_schedule(given)
    if own is given or is_traced(own, given) or _equal(own, given):
        return
    t = np.linspace(0.0, 1.0, 65)
    levels = lambda schedule, t: (schedule.alpha(t), schedule.sigma(t))
    pairs = zip(*(in_float64(levels, which, t) for which in (own, given)), strict=True)
    if all(np.allclose(a, b, rtol=1e-4, atol=1e-5) for a, b in pairs):
        return
    raise ValueError(
        f"schedule={given}: denoise_fn belongs to {own}; pass that schedule, or "
        f"predictions.reschedule(denoise_fn, source={own}, target={given})"
    )


def _equal(a: Schedule, b: Schedule) -> bool:
    """Returns whether two schedules are of one type with equal numbers."""
    flat: Any = jax.tree.flatten(a), jax.tree.flatten(b)
    (ours, structure), (theirs, other) = flat
    return structure == other and all(map(np.array_equal, ours, theirs))
