"""Computes one small step reversed in two ways, and choices of diffusion."""

from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array

from diffusionflow import analytic, grids, processes, samplers, schedules
from diffusionflow._numeric import in_float64
from diffusionflow.samplers import diffusions


class SmallStep(NamedTuple):
    """Particles before and after two kinds of step away from the data.

    Fields:
      before: at the log-SNR given, `[num_particles, *event]`.
      reversed: with the update of a small DDIM step, its sign reversed.
      diffused: noised by the forward process over as large a step.
    """

    before: np.ndarray
    reversed: np.ndarray
    diffused: np.ndarray


def small_step(
    data: analytic.Mixture,
    *,
    schedule: Any,
    logsnr: float = 0.0,
    step: float = 0.3,
    num_particles: int = 150,
    seed: int = 0,
) -> SmallStep:
    """Reverses a DDIM step, and diffuses forward, from the same particles.

    With z_s the DDIM step from z to `logsnr + step`, one is `2 z - z_s`; the other is a
    draw of the forward process at `logsnr - step` given z. Each particle goes another
    way; the laws agree to first order in the step.

    Args:
      data: any mixture.
      schedule: one that reaches the three log-SNRs.
      logsnr: of the particles.
      step: in log-SNR, positive.
      num_particles: number of particles.
      seed: of all random numbers.

    Returns:
      `SmallStep`, NumPy float64.

    Source: Gao et al. 2024, "Diffusion Meets Flow Matching", the animated figure on
    deterministic and stochastic samplers.
    """
    keys = jax.random.split(jax.random.key(seed), 3)
    levels = np.array([logsnr - step, logsnr, logsnr + step])

    def steps(data: analytic.Mixture, schedule: Any, levels: Array) -> SmallStep:
        far, t, s = schedule.inverse_logsnr(levels)
        x = data.sample(keys[0], (num_particles,))
        z = schedule.alpha(t) * x + schedule.sigma(t) * jax.random.normal(
            keys[1], x.shape
        )
        denoised = data.denoise_fn(schedule=schedule)(z, t)
        nearer = schedule.alpha(s) * denoised.x + schedule.sigma(s) * denoised.eps
        ratio = schedule.alpha(far) / schedule.alpha(t)
        added = schedule.sigma(far) ** 2 - (ratio * schedule.sigma(t)) ** 2
        noise = jax.random.normal(keys[2], z.shape)
        return SmallStep(z, 2 * z - nearer, ratio * z + added**0.5 * noise)

    return in_float64(steps, data, schedule, levels)


def choices() -> dict[str, Any]:
    """Names diffusions epsilon_t: multiples of g, and others."""
    return {
        "eta = 0": diffusions.Eta(0.0),
        "eta = 1/2": diffusions.Eta(0.5),
        "eta = 1": diffusions.Eta(1.0),
        r"$\epsilon^2 = 2 \sigma$": diffusions.Sigma(1.0),
        r"$\epsilon^2 = 2$": diffusions.Constant(1.0),
    }


class Diffusion(NamedTuple):
    """One diffusion in both frameworks.

    Fields:
      epsilon: of the interpolant, `[num_times]`.
      eta: of the SDE, `epsilon / g`, `[num_times]`.
    """

    epsilon: np.ndarray
    eta: np.ndarray


def diffusions_on_one_axis(t: np.ndarray, *, schedule: Any) -> dict[str, Diffusion]:
    """Computes the `choices` as epsilon and as eta.

    Args:
      t: inside (0, 1), `[num_times]`.
      schedule: any.

    Returns:
      A `Diffusion` for each name of `choices`, NumPy float64.
    """

    def both(schedule: Any, diffusion_fn: Any, t: Array) -> tuple[Array, Array]:
        epsilon = diffusion_fn(t, schedule=schedule)
        return epsilon, processes.to_sde(t, schedule=schedule, epsilon=epsilon).eta

    return {
        name: Diffusion(*in_float64(both, schedule, diffusion_fn, t))
        for name, diffusion_fn in choices().items()
    }


def generated(
    data: analytic.Mixture,
    diffusion_fn: Any,
    *,
    num_steps: int = 200,
    num_samples: int = 10_000,
    seed: int = 0,
) -> np.ndarray:
    """Samples by Euler-Maruyama on flow matching with an exact denoiser.

    Args:
      data: in one dimension, events of shape ().
      diffusion_fn: `(t, schedule) -> epsilon_t`.
      num_steps: of a uniform grid.
      num_samples: number of samples.
      seed: of start and noise.

    Returns:
      `[num_samples]`, NumPy float32.
    """
    start, noise = jax.random.split(jax.random.key(seed))
    schedule = schedules.FlowMatching()
    result = samplers.sample(
        noise,
        data.denoise_fn(schedule=schedule),
        samplers.prior(start, (num_samples,), schedule=schedule),
        grids.uniform(num_steps),
        sampler=samplers.EulerMaruyama(diffusion_fn),
        schedule=schedule,
    )
    return np.asarray(result.x)
