"""The churn family: DDIM further than needed, then back with fresh noise."""

import jax.numpy as jnp
from jax import Array

from diffusionflow._dataclass import check_bound, register
from diffusionflow.predictions import DenoiseFn
from diffusionflow.schedules import Schedule


@register
class Churn:
    """Fraction `churn` of each denoising step is undone by fresh noise.

    With c = churn and D the step in log-SNR, DDIM goes to `logsnr_t + D / (1 - c)` and
    noise brings it back to `logsnr_s = logsnr_t + D`:

        z_s = alpha_s x_hat + sigma_s (k eps_hat + sqrt(1 - k^2) xi),
        k = (sigma_s alpha_t / (alpha_s sigma_t))^(c / (1 - c)).

    c = 0 is DDIM; c = 1/2 is the ancestral sampler of DDPM with the posterior variance.

    Args:
      churn: in [0, 1).

    Raises:
      ValueError: `churn` is outside.

    Source: Gao et al. 2024, "Diffusion Meets Flow Matching", section on samplers (there
    eta^2 = c / (1 - c)); the idea of churn is that of Karras et al. 2022,
    arXiv 2206.00364, which adds its noise before the step.
    """

    churn: float = 0.0
    num_noises = 1

    def __post_init__(self) -> None:
        inside = lambda churn: 0 <= churn < 1
        check_bound("churn", self.churn, inside, "in [0, 1)", "0 is DDIM, 0.5 is DDPM")

    def plan(self, t: Array, s: Array, schedule: Schedule) -> dict[str, Array]:
        alpha_t, sigma_t = schedule.alpha(t), schedule.sigma(t)
        alpha_s, sigma_s = schedule.alpha(s), schedule.sigma(s)
        ratio = (alpha_t * sigma_s) / (alpha_s * sigma_t)
        power = jnp.asarray(self.churn / (1 - self.churn), ratio.dtype)
        finite = ratio > 0  # a power has no derivative at 0
        kept = jnp.where(
            finite, jnp.where(finite, ratio, 1) ** power, jnp.where(power > 0, 0.0, 1.0)
        )
        fresh = (1 - kept) * (1 + kept)
        some = fresh > 0  # the root has no derivative at 0
        fresh = jnp.where(some, jnp.sqrt(jnp.where(some, fresh, 1)), 0)
        return dict(t=t, x=alpha_s, eps=sigma_s * kept, noise=sigma_s * fresh)

    def init(self, z: Array) -> Array:
        return z

    def step(
        self, z: Array, row: dict[str, Array], noise: Array, denoise_fn: DenoiseFn
    ) -> Array:
        denoised = denoise_fn(z, row["t"])
        kept = row["x"] * denoised.x + row["eps"] * denoised.eps
        return kept + row["noise"] * noise[0]

    def output(self, z: Array) -> Array:
        return z


def ddim() -> Churn:
    """The deterministic sampler `z_s = alpha_s x_hat + sigma_s eps_hat`.

    It is `Churn(0.0)`, so that one program serves every churn: `run` takes a key for it
    too, and its noise is multiplied by 0.

    Source: Song et al. 2020, arXiv 2010.02502, eq. 12 with sigma = 0.
    """
    return Churn(0.0)


def ddpm() -> Churn:
    """The ancestral sampler with the posterior variance.

    Source: Ho et al. 2020, arXiv 2006.11239, eq. 7 and 11, for any schedule and step.
    """
    return Churn(0.5)
