"""Arrays of JAX that are known, closed over inside jit: not every name is a tracer.

Operations on them are traced there all the same, so a check of their values must be
made with NumPy. Each case is called outside and inside, and must give the same.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffusionflow as df
from diffusionflow import likelihood, metrics

HALF, ONE, TEN = jnp.float32(0.5), jnp.float32(1), jnp.float32(10)
MINUS = jnp.float32(-1)
X, T, EPS = jnp.ones((4, 2)), jnp.full(4, 0.5), jnp.full((4, 2), 0.3)
GRID, KEY = jnp.linspace(1, 0, 5), jax.random.key(0)
FLOW = df.schedules.FlowMatching()
COSINE = df.schedules.Cosine(logsnr_min=-15.0, logsnr_max=15.0)


def denoiser(schedule):
    return df.predictions.denoiser(lambda z, t: z, kind="v", schedule=schedule)


def sampled(sampler):
    return df.samplers.sample(
        KEY, denoiser(FLOW), X, GRID, sampler=sampler, schedule=FLOW
    ).x


def drawn(density):
    return density.sample(KEY, (4,), schedule=FLOW)


CASES = {
    "loss": lambda: df.losses.objective_loss(
        None, lambda z, t: z, X, objective=df.objectives.flow_matching(), t=T, eps=EPS
    ),
    "loss of a recipe with arrays": lambda: df.losses.objective_loss(
        KEY, lambda z, t: z, X, objective=df.objectives.edm(HALF, MINUS, ONE)
    ),
    "KL": lambda: df.losses.kl_weight(T, T / 2, schedule=FLOW),
    "total weight": lambda: df.objectives.total_weight(
        df.objectives.sd3(HALF, ONE, HALF), GRID
    ),
    "log-SNRs": lambda: drawn(df.times.UniformLogSNR(MINUS, HALF)),
    "truncated": lambda: drawn(df.times.Truncated(df.times.Uniform(), logsnr_max=HALF)),
    "karras": lambda: jnp.asarray(
        df.grids.karras(4, schedule=FLOW, rho=TEN, ratio_min=HALF, ratio_max=TEN)
    ),
    "shifted": lambda: jnp.asarray(df.grids.shifted(4, k=TEN)),
    "logsnr_uniform": lambda: jnp.asarray(
        df.grids.logsnr_uniform(4, schedule=FLOW, logsnr_min=MINUS, logsnr_max=HALF)
    ),
    "ancestral steps": lambda: sampled(df.samplers.ddpm()),
    "churn": lambda: sampled(df.samplers.Churn(HALF)),
    "inverted": lambda: (
        df.samplers.invert(
            denoiser(FLOW), X, GRID[::-1], sampler=df.samplers.Euler("x"), schedule=FLOW
        ).x
    ),
    "prior": lambda: df.samplers.prior(KEY, (4, 2), schedule=FLOW, t=HALF),
    "bound": lambda: (
        likelihood.continuous_bound(
            KEY,
            denoiser(COSINE),
            X,
            schedule=COSINE,
            density=df.times.UniformLogSNR(MINUS, ONE),
            t_min=COSINE.inverse_logsnr(ONE),
            t_max=COSINE.inverse_logsnr(MINUS),
        ).total
    ),
    "steps of a bound": lambda: (
        likelihood.discrete_bound(
            KEY, denoiser(COSINE), X, times=GRID, schedule=COSINE
        ).total
    ),
    "density": lambda: (
        likelihood.encode(
            KEY,
            denoiser(FLOW),
            X,
            schedule=FLOW,
            trace=likelihood.Hutchinson(2),
            solver=likelihood.Fixed(2),
            t_min=HALF / 10,
            t_max=HALF,
        ).log_p
    ),
    "guided": lambda: (
        df.guidance.classifier_free(denoiser(FLOW), denoiser(FLOW), scale=HALF)(X, T).x
    ),
    "Frechet": lambda: jnp.float32(metrics.Frechet(allow_singular=True)(X, EPS)),
    "energy": lambda: jnp.float32(metrics.energy()(X, EPS)),
}


@pytest.mark.parametrize("name", CASES)
def test_known_arrays_may_be_closed_over_inside_jit(name):
    outside, inside = CASES[name](), jax.jit(CASES[name])()
    np.testing.assert_allclose(inside, outside, rtol=2e-5, atol=2e-6)
