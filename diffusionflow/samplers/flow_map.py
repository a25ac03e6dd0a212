"""Jumps of a flow map, with noise between them or without."""

from jax import Array

from diffusionflow import _xp as xp
from diffusionflow._dataclass import check_bound, register
from diffusionflow._numeric import root
from diffusionflow.predictions import DenoiseFn, denoise_toward
from diffusionflow.samplers.churn import step_ratio
from diffusionflow.schedules import Schedule

Row = dict[str, Array]


@register
class FlowMap:
    """Sampler of flow maps: jumps, and fresh noise for a part gamma of the noise.

    With `rho = sigma / alpha`, the map jumps from t to the time s~ at which rho is
    `sqrt(1 - gamma^2) rho_s`, or to the first time of the schedule if that is earlier
    than any; z is scaled to alpha_s, and noise of standard deviation `gamma sigma_s`
    brings it to the level of s. The exact flow map keeps the exact law at every gamma
    and on every grid. Jumps (gamma = 0) compose the errors of a map that is not exact;
    renoising (gamma = 1: to the data and back, as for consistency models) forgets them,
    and needs a grid whose middle times are high.

    A denoiser without a second time goes DDIM's way to s~. The whole is then the churn
    family with `k = sqrt(1 - gamma^2)` in each step, DDIM at gamma = 0.

    Args:
      gamma: in [0, 1].

    Raises:
      ValueError: `gamma` is outside.

    Source: Kim et al. 2023, arXiv 2310.02279, gamma-sampling; Song et al. 2023,
    arXiv 2303.01469, algorithm 1 (multistep consistency sampling) for gamma = 1.

    Example: one call from noise to data.
      >>> import jax, jax.numpy as jnp
      >>> from diffusionflow import distillation, samplers, schedules
      >>> flow = schedules.FlowMatching()
      >>> net = lambda z, t, s: 0.5 * z  # exact for data N(0, 1 / 4) at t = 1, s = 0
      >>> flow_map_fn = distillation.flow_map(net, kind="u", schedule=flow)
      >>> result = samplers.sample(
      ...     jax.random.key(0), flow_map_fn, jnp.array([2.0]), jnp.array([1.0, 0.0]),
      ...     sampler=samplers.FlowMap(), schedule=flow,
      ... )
      >>> print(result.x, result.nfe)
      [1.] 1
    """

    gamma: float | Array = 0.0

    num_noises = 1

    def __post_init__(self) -> None:
        inside = lambda gamma: 0 <= gamma <= 1
        check_bound(
            "gamma", self.gamma, inside, "in [0, 1]", "0 jumps and 1 renoises fully"
        )

    @xp.quiet
    def plan(self, t: Array, s: Array, schedule: Schedule) -> Row:
        sigma, clean = schedule.sigma(s), s <= 0
        gamma = xp.asarray(self.gamma, sigma.dtype)
        ratio = step_ratio(xp.where(clean, 0.5, s), xp.zeros_like(s), schedule)
        least = xp.where(clean, 1, ratio**2)
        kept = xp.maximum((1 - gamma) * (1 + gamma), least)  # of the variance
        inside = (kept < 1) & (kept > least)
        logsnr = schedule.logsnr(xp.where(inside, s, 0.5))
        earlier = schedule.inverse_logsnr(logsnr - xp.log(xp.where(inside, kept, 1)))
        toward = xp.where(inside, earlier, xp.where(kept < 1, 0, s))
        return dict(
            t=t,
            s=toward,
            x=schedule.alpha(s),
            eps=sigma * root(kept),
            noise=sigma * root(1 - kept),
        )

    def init(self, z: Array) -> Array:
        return z

    def step(self, z: Array, row: Row, noise: Array, denoise_fn: DenoiseFn) -> Array:
        denoised = denoise_toward(denoise_fn, z, row["t"], row["s"])
        kept = row["x"] * denoised.x + row["eps"] * denoised.eps
        return kept + row["noise"] * noise[0]

    def output(self, z: Array) -> Array:
        return z
