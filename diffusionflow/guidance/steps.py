"""CFG++: guidance of a step, not of a denoiser."""

from typing import Any, NoReturn

from jax import Array
from jax.typing import ArrayLike

from diffusionflow._dataclass import check_finite, register
from diffusionflow.guidance.base import Wrapper, weighted_scale
from diffusionflow.predictions import Denoised, DenoiseFn, as_denoiser


@register
class StepGuided(Wrapper):
    """See `plus_plus`."""

    conditional_fn: Any
    unconditional_fn: Any
    scale: Any

    def __post_init__(self) -> None:
        check_finite("scale", self.scale)

    def has_second_time(self) -> bool:
        return True

    def denoise_toward(self, z: Array, t: Array, s: Array) -> Denoised:
        del s
        conditional, unconditional = (
            self.conditional_fn(z, t),
            self.unconditional_fn(z, t),
        )
        scale = weighted_scale(self.scale, None, z)
        x = scale * conditional.x + (1 - scale) * unconditional.x
        return Denoised(x, unconditional.eps)

    def denoise(self, z: Array, t: Array) -> NoReturn:
        raise ValueError(
            "CFG++ guides a step from one time to another, so it is no denoiser at one "
            "time: sample with samplers.FlowMap(gamma=0), DDIM's steps, and on a "
            "schedule that ends above sigma = 0 with to_data=False; other samplers "
            "take classifier_free"
        )


def plus_plus(
    conditional_fn: DenoiseFn, unconditional_fn: DenoiseFn, *, scale: ArrayLike
) -> StepGuided:
    """Applies CFG++: DDIM's step, x_hat guided, eps_hat of the unconditional denoiser.

        z_s = alpha_s (x_u + scale (x_c - x_u)) + sigma_s eps_u

    With `q = sigma_s alpha_t / (alpha_s sigma_t)` it is the step of classifier-free
    guidance with scale `scale / (1 - q)`: small while q is near 0, at the noise end or
    where steps are long, and large where they are short. So x_hat and eps_hat are no
    pair at the same z, there is no guided denoiser and no ODE that more steps would
    approach: twice the steps are about twice the guidance.

    `samplers.FlowMap(gamma=0)` makes these steps exactly, and with gamma > 0 the same
    with fresh noise; every other sampler is refused, since what it computes from x_hat,
    eps_hat and z would depend on which two of them it takes.

    Args:
      conditional_fn: `(z, t) -> Denoised` given the condition.
      unconditional_fn: the same without it.
      scale: scalar, or `[*batch]`; in [0, 1] in the source. 0 is the unconditional
        step, bit for bit; 1 is not the conditional one, whose eps_hat differs.

    Returns:
      A registered denoiser for `samplers.FlowMap` alone; its network calls are those of
      both.

    Raises:
      ValueError: `scale` is not finite.

    Source: Chung et al. 2024, arXiv 2406.08070, algorithm 2.

    Example: with one condition and none, one step to the data.
      >>> import jax, jax.numpy as jnp
      >>> from diffusionflow import analytic, samplers, schedules
      >>> flow = schedules.FlowMatching()
      >>> pair = (
      ...     analytic.gaussian(jnp.full(1, mean), 1.0).denoise_fn(schedule=flow)
      ...     for mean in (2.0, 0.0)
      ... )
      >>> result = samplers.sample(
      ...     jax.random.key(0), plus_plus(*pair, scale=0.5), jnp.ones((1, 1)),
      ...     jnp.array([1.0, 0.0]), sampler=samplers.FlowMap(), schedule=flow,
      ... )
      >>> print(result.x, result.nfe)
      [[1.]] 2
    """
    return StepGuided(as_denoiser(conditional_fn), as_denoiser(unconditional_fn), scale)
