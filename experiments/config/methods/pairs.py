"""Methods on pairs of noise and sample, which `experiments.pairs` writes."""

import jax.numpy as jnp

from diffusionflow import distillation, losses, register
from diffusionflow.objectives import Objective
from experiments.config.methods import (
    Batch,
    Method,
    Networks,
    jump_settings,
    make_terms,
    mean_square,
)


@register
class Reflow(Method):
    """Rectified flow again: the objective itself on pairs of noise and sample.

    The data are pairs that `experiments.pairs` wrote. Paths straighten, so that few
    steps of any sampler do.

    Source: Liu et al. 2022, arXiv 2209.03003.
    """

    takes_teacher = False
    takes_guidance = False
    needs_noise = True
    two_times = False

    def terms(
        self, networks: Networks, batch: Batch, objective: Objective
    ) -> losses.Terms:
        predict_fn = lambda z, t: networks.student(z, t, t)
        return losses.objective_terms(
            batch.keys, predict_fn, batch.x, objective=objective, eps=batch.eps
        )


@register
class OneStep(Method):
    """One-step distillation: the jump from noise to data is regressed on pairs.

    The data are pairs of noise and sample that `experiments.pairs` wrote; the optimum
    is the sampler that made them.

    Source: Luhman and Luhman 2021, arXiv 2101.02388.
    """

    takes_teacher = False
    takes_guidance = False
    needs_noise = True
    two_times = False
    diagonal = False

    def terms(
        self, networks: Networks, batch: Batch, objective: Objective
    ) -> losses.Terms:
        t = jnp.ones(batch.x.shape[:1], batch.x.dtype)
        s = jnp.zeros_like(t)
        # the prior of samplers, which leaves the data's part out
        sigma = jnp.asarray(objective.schedule.sigma(1.0), batch.x.dtype)
        z = sigma * batch.eps
        settings = jump_settings(objective)
        x = distillation.jump(networks.student(z, t, s), z=z, t=t, s=s, **settings)
        alpha = jnp.asarray(objective.schedule.alpha(0.0), x.dtype)
        return make_terms(mean_square(x / alpha - batch.x), t, objective)
