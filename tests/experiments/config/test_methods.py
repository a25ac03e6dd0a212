"""Few-step methods on the exact flow map of Gaussian data: `config/methods.py`."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusionflow import (
    analytic,
    distillation,
    losses,
    objectives,
    random,
    schedules,
    times,
    weightings,
)
from experiments.config import methods
from tests.helpers.fewstep import exact_predict_fn, gaussian_map

MEAN, VARIANCE = 0.4, 0.37
DATA = analytic.gaussian(jnp.full((3,), MEAN), VARIANCE)
OBJECTIVES = {
    "flow": objectives.flow_matching(),
    "cosine": objectives.Objective(
        schedules.Cosine(), "v", weightings.MSE("v"), times.Uniform()
    ),
}


def batch(count=64, stage=0, progress=0.0):
    keys = random.example_keys(jax.random.key(0), jnp.arange(count))
    x, eps = jax.random.normal(jax.random.key(1), (2, count, 3))
    x = MEAN + np.sqrt(VARIANCE) * x
    return methods.Batch(
        keys, x, eps, jnp.asarray(stage, jnp.int32), jnp.float32(progress)
    )


@functools.cache
def networks(name, teacher=True):
    """The exact flow map as a student, its diagonal as that of the averaged weights."""
    objective = OBJECTIVES[name]
    schedule, kind = objective.schedule, objective.kind
    exact = exact_predict_fn(kind, schedule, MEAN, VARIANCE)
    denoise_fn = DATA.denoise_fn(schedule=schedule)

    def student(z, t, s):
        """Where s = t, the exact prediction in place of the ratio 0 / 0."""
        from diffusionflow import predictions

        now = predictions.from_denoised(
            denoise_fn(z, t), kind=kind, t=t, schedule=schedule
        )
        apart = t - s > 1e-6
        jumped = exact(z, t, jnp.where(apart, s, t / 2))
        return jnp.where(apart[:, None], jumped, now)

    return methods.Networks(student, student, denoise_fn if teacher else None)


def terms(method, name, teacher=True, **kwargs):
    run = jax.jit(
        lambda batch: method.terms(networks(name, teacher), batch, OBJECTIVES[name])
    )
    return run(batch(**kwargs))


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize(
    "method", [methods.MeanFlow(share=0.25), methods.MeanFlow(share=0.0, power=1.0)]
)
def test_meanflow_with_the_exact_teacher_is_0_at_the_flow_map(method, name):
    loss = terms(method, name).loss
    assert loss.shape == (64,)
    assert loss.max() < 1e-8
