"""Training methods for few-step models: what `config.distillation.method` names.

A method gives the loss of a two-time network `P(z, t, s)`, whose prediction at `(z, t)`
carries DDIM to s. The objective of the config stays what it is on the diagonal s = t:
schedule, prediction type and weighting are taken from there. A method of your own is a
class derived from `Method` and registered by `diffusionflow.register`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffusionflow import distillation, losses, predictions, random
from diffusionflow.objectives import Objective

TwoTimeFn = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


class Networks(NamedTuple):
    """The networks of a training step.

    Fields:
      student: `(z, t, s) -> prediction`, which is trained.
      target: the same of the averaged weights.
      teacher: `(z, t) -> Denoised`, or None.
      unconditional: the student without label and vector, or None.
      at_fn: gives the networks of the examples at some places, whose labels they know.
    """

    student: TwoTimeFn
    target: TwoTimeFn
    teacher: predictions.DenoiseFn | None
    unconditional: TwoTimeFn | None = None
    at_fn: Callable[[np.ndarray], "Networks"] | None = None

    def at(self, place: np.ndarray) -> "Networks":
        """Returns the networks of the examples at `place`."""
        return self if self.at_fn is None else self.at_fn(place)


class Batch(NamedTuple):
    """What a training step computes the loss of.

    Fields:
      keys: `[batch]`.
      x: data, `[batch, *event]`.
      eps: noise, like `x`.
      stage: number of the stage, from 0; int32.
      progress: fraction of the run that is done, in [0, 1).
      guidance: `[batch]`, the scale that is learned from the network's own predictions,
        1 where the label is dropped; None for no guidance, or that of a teacher.
    """

    keys: jax.Array
    x: jax.Array
    eps: jax.Array
    stage: jax.Array
    progress: jax.Array
    guidance: jax.Array | None = None

    def at(self, place: np.ndarray) -> "Batch":
        """Returns the examples at `place`."""
        keys, x, eps = (part[place] for part in self[:3])
        scale = None if self.guidance is None else self.guidance[place]
        return self._replace(keys=keys, x=x, eps=eps, guidance=scale)


class Method:
    """Base class of training methods: subclasses give `terms`.

    Attributes:
      needs_teacher: whether it cannot be trained without a teacher.
      takes_teacher: whether it learns from a teacher where there is one; else a teacher
        gives its first weights alone.
      takes_guidance: whether the teacher may be guided: all that is learned is then
        learned from it.
      guides_itself: whether without a teacher it learns guidance from predictions of
        its own.
      needs_noise: whether the data must be pairs of noise and sample.
      two_times: whether the network is given s; else t implies it.
      diagonal: whether the network at s = t is an ordinary one-time prediction, so that
        held-out losses and likelihoods mean something.
      forward_mode: whether the loss differentiates the network in its times.
    """

    needs_teacher = False
    takes_teacher = True
    takes_guidance = True
    guides_itself = False
    needs_noise = False
    two_times = True
    diagonal = True
    forward_mode = False

    @property
    def num_stages(self) -> int:
        """Stages of equal length; at each the averaged student becomes the teacher."""
        return 1

    def terms(
        self, networks: Networks, batch: Batch, objective: Objective
    ) -> losses.Terms:
        """Computes the loss of each example.

        Args:
          networks: student, target and teacher.
          batch: examples, with their keys and noise.
          objective: schedule, prediction type, and weighting of the diagonal.

        Returns:
          `losses.Terms`.
        """
        raise NotImplementedError(f"{type(self).__name__} must define terms")


def check(name: str, value: Any, holds: bool, bound: str) -> None:
    """Raises a `ValueError` naming value and bound unless it holds."""
    if not holds:
        raise ValueError(f"{name}={value!r}: must be {bound}")


def check_doubled(name: str, value: int, other: str, least: int) -> None:
    """Checks that a number is another, at least 1, times a power of 2."""
    check(other, least, least >= 1, "at least 1")
    ratio = value // least
    power = value == ratio * least and ratio > 1 and ratio & (ratio - 1) == 0
    check(name, value, power, f"{other}={least} times 2, 4, 8 or so on")


def jump_settings(objective: Objective) -> dict[str, Any]:
    """Returns prediction type and schedule as functions of `distillation` take them."""
    return dict(kind=objective.kind, schedule=objective.schedule)


def diagonal(predict_fn: TwoTimeFn, objective: Objective) -> predictions.DenoiseFn:
    """Makes the one-time denoiser of a two-time network."""
    return distillation.flow_map(predict_fn, **jump_settings(objective))


def pair_of_times(
    density: Any, batch: Batch, objective: Objective
) -> tuple[jax.Array, jax.Array]:
    """Draws the two times of each example from a density of both."""
    keys = random.fold_in(batch.keys, 0)
    return density.sample(keys, batch.x.shape[:1], schedule=objective.schedule)


def neighbours(count: jax.Array, batch: Batch) -> tuple[jax.Array, jax.Array]:
    """Draws a time of `1/count, ..., 1` for each example, and the one below it."""
    drawn = random.uniform(random.fold_in(batch.keys, 0), batch.x.shape[:1])
    number = jnp.minimum(jnp.floor(drawn * count), count - 1)
    return (number + 1) / count, number / count


def mean_square(error: jax.Array) -> jax.Array:
    """Computes the mean square over the event, `[batch]`."""
    return (error**2).reshape(len(error), -1).mean(1)


def make_terms(
    loss: jax.Array, t: jax.Array, objective: Objective, weight: Any = 1.0
) -> losses.Terms:
    """Makes terms with `eps_mse`, the squared error of the prediction in units of eps.

    It is NaN where the weight is: where the loss is no weighted squared error.
    """
    ratio = predictions.error_ratio(
        "eps", objective.kind, t, schedule=objective.schedule
    )
    return losses.Terms(
        loss=loss,
        t=t,
        logsnr=objective.schedule.logsnr(t),
        eps_mse=ratio * loss / weight,
        importance=jnp.ones_like(loss),
    )
