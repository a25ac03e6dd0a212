"""The conventions of EDM."""

import math
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from diffusionflow import predictions, schedules
from diffusionflow._dataclass import (
    check_count,
    check_name,
    check_positive,
    register,
    static,
)
from diffusionflow.interop.convention import Convention
from diffusionflow.schedules import Schedule

EDM_OUTPUTS = ("edm", "vp", "ve", "iddpm", "denoised")


def from_edm(
    output: str = "edm",
    *,
    sigma_data: float = 0.5,
    schedule: Schedule | None = None,
    beta_d: float = 19.9,
    beta_min: float = 0.1,
    num_levels: int = 1000,
) -> Convention:
    """Makes the convention of NVlabs/edm, where time is sigma and `z = x + sigma eps`.

    There `D(z; sigma) = c_skip z + c_out F(c_in z, c_noise)`:

    - "edm": the prediction type `edm_f(sigma_data)`; c_in and
      c_noise = log(sigma) / 4 as in `predictions.edm_preconditioning`.
    - "vp": eps; c_skip = 1, c_out = -sigma, c_in = 1 / sqrt(1 + sigma^2),
      c_noise = (M - 1) t.
    - "ve": minus eps; c_skip = 1, c_out = sigma, c_in = 1, c_noise = log(sigma / 2).
    - "iddpm": eps; as "vp", but c_noise = M - 1 - index.
    - "denoised": x; the network is D itself and takes z and sigma.

    For "vp", t is the time of `schedules.LinearBeta(beta_min, beta_min + beta_d)` at
    sigma; for "iddpm", index is that of the nearest sigma in a table of M levels.

    Args:
      output: what the network computes: F of a preconditioning, or "denoised" for D.
      sigma_data: of "edm".
      schedule: the one to call the network on; any has the same sigma / alpha
        somewhere. `schedules.EDM()` if None.
      beta_d: of "vp", the range of beta.
      beta_min: of "vp".
      num_levels: M of "vp" and "iddpm".

    Returns:
      `Convention`.

    Raises:
      ValueError: `output` is unknown, or a parameter is not positive.

    Source: Karras et al. 2022, arXiv 2206.00364, table 1.
    """
    check_name("output", output, EDM_OUTPUTS)
    for name, value in (("beta_d", beta_d), ("beta_min", beta_min)):
        check_positive(name, value)
    check_count("num_levels", num_levels, 2)
    schedule = schedules.EDM() if schedule is None else schedule
    unit, plain = _InputScale(schedule, 1.0), _InputScale(schedule, None)
    vp = schedules.LinearBeta(beta_min, beta_min + beta_d)
    match output:
        case "edm":
            kind = predictions.edm_f(sigma_data)
            scale_fn = _InputScale(schedule, sigma_data)
            return Convention(schedule, kind, NoiseClock(schedule, "edm"), scale_fn)
        case "vp":
            clock_fn = _VpTime(schedule, vp, num_levels - 1.0)
            return Convention(schedule, "eps", clock_fn, unit)
        case "ve":
            return Convention(schedule, "eps", NoiseClock(schedule, "ve"), plain, -1)
        case "iddpm":
            nearest_fn = _NearestLevel(schedule, iddpm_levels(num_levels))
            return Convention(schedule, "eps", nearest_fn, unit)
    return Convention(schedule, "x", NoiseClock(schedule, "sigma"), plain)


def iddpm_levels(
    num_levels: int = 1000, *, ratio_min: float = 0.001, offset: float = 0.008
) -> np.ndarray:
    """Computes EDM's sigma table for improved DDPM networks, falling to 0, `[M + 1]`.

    `u_M = 0`, `u_(j-1) = sqrt((u_j^2 + 1) / max(abar_(j-1) / abar_j, ratio_min) - 1)`,
    `abar_j = sin^2(pi / 2 j / (M (offset + 1)))`.

    Args:
      num_levels: M.
      ratio_min: lower bound of the ratio, C_1 of the source.
      offset: C_2 of the source.

    Source: Karras et al. 2022, arXiv 2206.00364, appendix on improved DDPM.
    """
    place = np.arange(num_levels + 1) / num_levels / (offset + 1)
    abar = np.sin(np.pi / 2 * place) ** 2
    levels = np.zeros(num_levels + 1)
    for j in range(num_levels, 0, -1):
        ratio = max(abar[j - 1] / abar[j], ratio_min)
        levels[j - 1] = np.sqrt((levels[j] ** 2 + 1) / ratio - 1)
    return levels


@register
class NoiseClock:
    """A function of `sigma / alpha`, by name."""

    schedule: Any
    name: str = static()

    def __call__(self, t: Array) -> Array:
        log_sigma = -self.schedule.logsnr(t) / 2
        match self.name:
            case "edm":
                return log_sigma / 4
            case "ve":
                return log_sigma - math.log(2.0)
        return self.schedule.sigma(t) / self.schedule.alpha(t)


@register
class _VpTime:
    """`factor` times the time of schedule `clock` at the same log-SNR."""

    schedule: Any
    clock: Any
    factor: float

    def __call__(self, t: Array) -> Array:
        return self.factor * self.clock.inverse_logsnr(self.schedule.logsnr(t))


@register
class _NearestLevel:
    """`M - 1 - index` of the level nearest to `sigma / alpha`."""

    schedule: Any
    levels: Any

    def __call__(self, t: Array) -> Array:
        sigma = self.schedule.sigma(t) / self.schedule.alpha(t)
        levels = jnp.asarray(self.levels).astype(sigma.dtype)
        nearest = lambda sigma: jnp.argmin(jnp.abs(sigma - levels))
        index = jnp.vectorize(nearest)(sigma)
        return (levels.shape[0] - 2 - index).astype(sigma.dtype)


@register
class _InputScale:
    """`1 / sqrt(sigma_data^2 alpha^2 + sigma^2)`; `1 / alpha` for None."""

    schedule: Any
    sigma_data: Any

    def __call__(self, t: Array) -> Array:
        if self.sigma_data is None:
            return 1 / self.schedule.alpha(t)
        return 1 / self.schedule.z_std(t, self.sigma_data)
