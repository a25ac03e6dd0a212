"""Cosine schedules."""

from jax import Array
from jax.typing import ArrayLike

from diffusionflow import _xp as xp
from diffusionflow._dataclass import check_below, check_positive, register
from diffusionflow._numeric import floating, in_type_of, root
from diffusionflow.schedules.base import Schedule


@register
class Cosine(Schedule):
    """Cosine: `alpha = cos(theta)`, `sigma = sin(theta)`, `theta` linear in t.

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

    logsnr_min: float | Array = -xp.inf
    logsnr_max: float | Array = xp.inf
    family = "vp"

    def __post_init__(self) -> None:
        check_below("logsnr_min", self.logsnr_min, "logsnr_max", self.logsnr_max)

    def _angles(self, like: Array) -> tuple[Array, Array, Array]:
        """Computes angles of the data end, the noise end from pi / 2, and between."""
        data_end = xp.arctan(xp.exp(-floating(self.logsnr_max) / 2))
        noise_end = xp.arctan(xp.exp(floating(self.logsnr_min) / 2))
        width = xp.pi / 2 - data_end - noise_end
        data_end, noise_end, width = in_type_of(like, (data_end, noise_end, width))
        return data_end, noise_end, width

    def alpha(self, t: ArrayLike) -> Array:
        t = floating(t)
        _, noise_end, width = self._angles(t)
        return xp.sin(noise_end + width * (1 - t))

    def sigma(self, t: ArrayLike) -> Array:
        t = floating(t)
        data_end, _, width = self._angles(t)
        return xp.sin(data_end + width * t)

    def inverse_logsnr(self, logsnr: ArrayLike) -> Array:
        logsnr = floating(logsnr)
        data_end, _, width = self._angles(logsnr)
        clean = logsnr > 0  # the angle from the nearer end: flat where it is reached
        from_data = xp.arctan(xp.exp(-xp.where(clean, logsnr, 0) / 2))
        from_noise = xp.arctan(xp.exp(xp.where(clean, 0, logsnr) / 2))
        angle = xp.where(clean, from_data, xp.pi / 2 - from_noise)
        return (angle - data_end) / width

    def derivatives(self, t: ArrayLike) -> tuple[Array, Array]:
        width = self._angles(floating(t))[2]
        return -width * self.sigma(t), width * self.alpha(t)


@register
class IDDPMCosine(Schedule):
    """Variance preserving, `alpha = cos(phi) / cos(phi_0)` with a small offset.

    `phi = (pi / 2) (t + offset) / (1 + offset)`, `phi_0` its value at t = 0, and
    `sigma^2 = sin(phi - phi_0) sin(phi + phi_0) / cos(phi_0)^2`, which is 1 - alpha^2.
    Hence `f = -phi' tan(phi)` and `g^2 = 2 phi' tan(phi)`: unlike those of `Cosine`
    they do not vanish at t = 0.

    Args:
      offset: of the time, positive.

    Raises:
      ValueError: `offset` is not positive.

    Source: Nichol and Dhariwal 2021, arXiv 2102.09672, eq. 17, in continuous time. The
    paper's cap on beta is left out; `Discrete.from_betas` takes capped betas.
    """

    offset: float | Array = 0.008
    family = "vp"

    def __post_init__(self) -> None:
        check_positive("offset", self.offset, "0 is Cosine()")

    def _rate(self, like: Array) -> Array:
        """Computes `phi'`."""
        return in_type_of(like, [xp.pi / 2 / (1 + floating(self.offset))])[0]

    def alpha(self, t: ArrayLike) -> Array:
        t = floating(t)
        rate = self._rate(t)  # cosines are sines of the angle from the noise end
        return xp.sin(rate * (1 - t)) / xp.sin(rate)

    def sigma(self, t: ArrayLike) -> Array:
        t = floating(t)
        rate = self._rate(t)
        sin_sum = xp.sin(rate * (t + 2 * self.offset))  # of phi + phi_0
        return root(xp.sin(rate * t) * sin_sum) / xp.sin(rate)

    def inverse_logsnr(self, logsnr: ArrayLike) -> Array:
        logsnr = floating(logsnr)
        rate = self._rate(logsnr)
        cos_0, sin_0 = xp.sin(rate), xp.sin(rate * self.offset)
        noise = cos_0**2 * xp.sigmoid(-logsnr)
        alpha = xp.exp(xp.log_sigmoid(logsnr) / 2)  # flat at -inf, unlike a root
        cos, sin = cos_0 * alpha, xp.sqrt(sin_0**2 + noise)
        # the angle phi - phi_0, from its own sine and cosine
        turn = xp.arctan2(
            noise / (sin * cos_0 + cos * sin_0), cos * cos_0 + sin * sin_0
        )
        return turn / rate

    def derivatives(self, t: ArrayLike) -> tuple[Array, Array]:
        t = floating(t)
        rate, alpha = self._rate(t), self.alpha(t)
        phi = rate * (t + self.offset)
        dalpha = -rate * xp.sin(phi) / xp.sin(rate)
        return dalpha, -alpha * dalpha / self.sigma(t)

    def square_derivatives(self, t: ArrayLike) -> tuple[Array, Array]:
        rate = -2 * self.alpha(t) * self.derivatives(t)[0]
        return -rate, rate

    def g2(self, t: ArrayLike) -> Array:
        return -2 * self.derivatives(t)[0] / self.alpha(t)

    def dlogsnr_dt(self, t: ArrayLike) -> Array:
        return -self.g2(t) / self.sigma(t) ** 2
