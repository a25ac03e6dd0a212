"""Every sampler, once: tests that hold for all of them run over these lists."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffusionflow import samplers, schedules

VARIABLES = ("x", "eps", "u", "v", "dz_dt")


class Entry(NamedTuple):
    """A sampler and what it promises.

    Fields:
      sampler: the sampler.
      order: of the error at the end: of the point, or of the variance where the sampler
        draws noise. For a multi-step method, from exact starting values.
      shipped: the same from its own start, where that is lower.
    """

    sampler: Any
    order: float
    shipped: float | None = None


DETERMINISTIC = {
    "ddim": Entry(samplers.ddim(), 1),
    **{f"euler-{v}": Entry(samplers.Euler(v), 1) for v in VARIABLES},
    **{f"heun-{v}": Entry(samplers.Heun(v), 2) for v in VARIABLES},
}
STOCHASTIC = {
    "ddpm": Entry(samplers.ddpm(), 1),
    "churn-0.2": Entry(samplers.Churn(0.2), 1),
    "churn-0.8": Entry(samplers.Churn(0.8), 1),
    "ddim_eta": Entry(samplers.DDIMEta(0.6), 1),
    "ddpm_forward": Entry(samplers.ddpm("forward"), 1),
    "edm": Entry(samplers.EDM(20.0), 2),
    "sde_dpm2": Entry(samplers.SdeDpm(2, 0.7), 1),
    "sde_dpm3": Entry(samplers.SdeDpm(3, 1.0), 1),
    "euler_maruyama": Entry(samplers.EulerMaruyama(), 1),
    "stochastic_heun": Entry(samplers.StochasticHeun(), 1),
}
SAMPLERS = DETERMINISTIC | STOCHASTIC
SCHEDULES = {
    "flow": schedules.FlowMatching(),
    "cosine": schedules.Cosine(),
    "truncated": schedules.Cosine(-15.0, 15.0),
    "linear_beta": schedules.LinearBeta(),
}


def levels(schedule, times):
    """`(alpha, sigma)` at times, float64."""
    with jax.enable_x64(True):
        return np.asarray(schedule.alpha(times)), np.asarray(schedule.sigma(times))


def steps(sampler, rows, z, denoise_fn, noise=None, exact=None, warm=0):
    """The states' z after each step, `[num_steps + 1, *z.shape]`.

    Where `exact` is given, the first `warm` states get its z: exact starting values. A
    state that is more than z is a NamedTuple with a field `z`.
    """
    count = jax.tree.leaves(rows)[0].shape[0]
    draws = np.zeros((count, sampler.num_noises, *z.shape)) if noise is None else noise
    step = jax.jit(lambda state, row, draw: sampler.step(state, row, draw, denoise_fn))
    state = sampler.init(jnp.asarray(z))
    found = [sampler.output(state)]
    for i in range(count):
        row = jax.tree.map(lambda column, i=i: column[i], rows)
        state = step(state, row, draws[i])
        if i < warm:
            z = jnp.asarray(exact[i + 1])
            state = state._replace(z=z) if hasattr(state, "_replace") else z
        found.append(sampler.output(state))
    return np.stack(found)
