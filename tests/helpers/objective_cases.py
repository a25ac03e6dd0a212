"""What tests of objectives share."""

import functools

import jax
import numpy as np

from diffusionflow import objectives, predictions, schedules, times, weightings

FLOW, UNIFORM = schedules.FlowMatching(), times.Uniform()


def recipe(schedule, kind, weighting, density=UNIFORM):
    return objectives.Objective(schedule, kind, weightings.Mse(weighting), density)


def total_weight(objective, logsnr):
    """In float64, jitted as a function of the log-SNR."""
    weight = functools.partial(objectives.total_weight, objective)
    with jax.enable_x64(True):
        return np.asarray(jax.jit(weight)(logsnr))


EDM_ON_FLOW = recipe(FLOW, "u", predictions.edm_f(0.5), times.LogNormalSigma())
DIGITS20 = {
    "FM": objectives.flow_matching(),
    "v_cos": objectives.v_cosine(),
    "eps_cos": recipe(schedules.Cosine(), "x", "eps"),
    "eps_vp_linear": objectives.ddpm(),
    "SD3_0_1": objectives.sd3(),
    "EDM": EDM_ON_FLOW,
    "InDI": recipe(FLOW, "u", "x"),
    "sigmoid_b0": objectives.sid2(),
}
after = 1 / (1 - 1e-5)  # density of the times of score_sde
