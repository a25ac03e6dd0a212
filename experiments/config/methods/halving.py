"""Methods on the levels of a grid, whose number is doubled or halved in training."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffusionflow import (
    distillation,
    losses,
    predictions,
    processes,
    register,
    static,
    weightings,
)
from diffusionflow.objectives import Objective
from experiments.config.methods import (
    Batch,
    Method,
    Networks,
    check_doubled,
    jump_settings,
    make_terms,
    mean_square,
    neighbours,
)


@register
class Consistency(Method):
    """Consistency model: jumps to the data from neighbouring times are to agree.

    The levels are uniform times; their number doubles in steps of equal length. With a
    teacher the earlier point is one DDIM step of it (distillation), else the same pair
    at the earlier time (training), whose optimum on N levels is DDIM over these levels.

    Args:
      first: levels at the start, at least 1.
      last: levels at the end, `first` times a power of 2.

    Raises:
      ValueError: a number of levels is out of bounds.

    Source: Song et al. 2023, arXiv 2303.01469; doubling: Song and Dhariwal 2023, arXiv
    2310.14189.
    """

    first: int = static(default=8)
    last: int = static(default=128)
    two_times = False
    diagonal = False

    def __post_init__(self) -> None:
        check_doubled("last", self.last, "first", self.first)

    def terms(
        self, networks: Networks, batch: Batch, objective: Objective
    ) -> losses.Terms:
        schedule = objective.schedule
        doublings = int(np.log2(self.last // self.first))
        power = jnp.floor(batch.progress * (doublings + 1))
        t, earlier = neighbours(self.first * 2.0**power, batch)
        z = processes.add_noise(batch.x, batch.eps, t, schedule=schedule)
        pair = predictions.Denoised(batch.x, batch.eps)
        if networks.teacher is not None:
            pair = jax.lax.stop_gradient(networks.teacher(z, t))
        z_earlier = processes.add_noise(pair.x, pair.eps, earlier, schedule=schedule)
        loss = distillation.consistency_loss(
            networks.student, z, t, z_earlier, earlier, **jump_settings(objective)
        )
        return make_terms(loss, t, objective)


@register
class Progressive(Method):
    """Progressive distillation: one step of the student is two of its teacher.

    A stage halves the number of steps; at its end the averaged student is the teacher
    of the next, with an optimizer and learning rate that begin again. The optimum is
    DDIM in `first` steps. The student is a one-time network.

    Args:
      first: steps of the teacher in the first stage.
      last: steps of the student in the last stage; `first` is it times a power of 2.

    Raises:
      ValueError: a number of steps is out of bounds.

    Source: Salimans and Ho 2022, arXiv 2202.00512, algorithm 2.
    """

    first: int = static(default=32)
    last: int = static(default=1)
    needs_teacher = True
    two_times = False
    diagonal = False

    def __post_init__(self) -> None:
        check_doubled("first", self.first, "last", self.last)

    @property
    def num_stages(self) -> int:
        return int(np.log2(self.first // self.last))

    def steps_of_stage(self, stage: Any) -> Any:
        """Returns how many steps the student takes in a stage; stages count from 0."""
        return self.first * 0.5 ** (1.0 + stage)

    def terms(
        self, networks: Networks, batch: Batch, objective: Objective
    ) -> losses.Terms:
        assert networks.teacher is not None
        t, s = neighbours(self.steps_of_stage(batch.stage.astype(jnp.float32)), batch)
        settings = jump_settings(objective)
        z = processes.add_noise(batch.x, batch.eps, t, schedule=objective.schedule)
        wanted = distillation.progressive_targets(
            networks.teacher, z, t, (t + s) / 2, s, **settings
        )
        wanted = jax.lax.stop_gradient(wanted)
        error = mean_square(networks.student(z, t, s) - wanted)
        weight = weightings.weight_on(
            objective.weighting, objective.kind, t, schedule=objective.schedule
        )
        return make_terms(weight * error, t, objective, weight)
