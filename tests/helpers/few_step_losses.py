"""Networks, data and times that tests of few-step losses share."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from diffusionflow import analytic, predictions
from diffusionflow.predictions import Denoised
from tests.helpers import fewstep

FLOW, COSINE, VP = (fewstep.SCHEDULES[name] for name in ("flow", "cosine", "vp"))
EDM_F = predictions.edm_f(0.5)
MEAN, VARIANCE = 0.4, 0.37
in_float64 = functools.partial(jax.enable_x64, True)


def denoise_fn_of(schedule, mean=MEAN, v=VARIANCE):
    return analytic.gaussian(np.array([mean]), v).denoise_fn(schedule=schedule)


def parameters():
    rng = np.random.default_rng(3)
    return {"in": rng.normal(size=(5, 7)) / 2, "out": rng.normal(size=(7, 3)) / 2}


def mlp(weights):
    def predict_fn(z, t, s):
        t, s = jnp.broadcast_to(t, z.shape[:1]), jnp.broadcast_to(s, z.shape[:1])
        given = jnp.concatenate([z, t[:, None], s[:, None]], axis=1)
        return jnp.tanh(given @ weights["in"]) @ weights["out"]

    return predict_fn


def case():
    x, eps = np.random.default_rng(4).normal(size=(2, 4, 3))
    t, s = np.array([0.9, 0.7, 0.5, 0.5]), np.array([0.1, 0.3, 0.5, 0.0])
    z = np.cos(np.pi / 2 * t)[:, None] * x + np.sin(np.pi / 2 * t)[:, None] * eps
    return z, t, s, Denoised(x, eps)
