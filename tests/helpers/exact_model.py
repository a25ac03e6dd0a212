"""A model whose network is the best prediction for normal data."""

import jax.numpy as jnp

from diffusionflow import objectives, schedules, times, weightings
from experiments.config.model import Model
from experiments.data import DataTransform

STD = 0.7
SCHEDULES = {
    "flow_matching": (schedules.FlowMatching(), "u", times.Uniform()),
    "cosine": (schedules.Cosine(), "v", times.LogitNormal()),
    "x": (schedules.FlowMatching(), "x", times.Uniform()),
    "eps": (schedules.FlowMatching(), "eps", times.Uniform()),
    "ve": (schedules.VE(), "eps", times.Truncated(times.Uniform(), logsnr_max=5.0)),
}


class Exact:
    """The best prediction for N(0, STD^2), as the network of a model."""

    def __init__(self, schedule, kind):
        self.schedule, self.kind = schedule, kind

    def apply(self, variables, z, time, label, *, train, rngs):
        """z comes scaled by sqrt(STD^2 alpha^2 + sigma^2); time is the noise level."""
        logsnr = 2 * jnp.log((1 - time) / time)
        t = self.schedule.inverse_logsnr(logsnr)
        alpha, sigma = self.schedule.alpha(t)[:, None], self.schedule.sigma(t)[:, None]
        norm = jnp.sqrt((STD * alpha) ** 2 + sigma**2)
        x, eps = STD**2 * alpha / norm * z, sigma / norm * z
        found = {"u": eps - x, "v": alpha * eps - sigma * x, "eps": eps, "x": x}
        return found[self.kind]


def model_of(name):
    schedule, kind, density = SCHEDULES[name]
    objective = objectives.Objective(schedule, kind, weightings.Mse(kind), density)
    return Model(
        net=Exact(schedule, kind),
        objective=objective,
        transform=DataTransform(),
        event_shape=(4,),
        num_classes=2,
        sigma_data=STD,
    )
