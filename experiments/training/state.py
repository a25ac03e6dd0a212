"""The state of a training run."""

from typing import Any, NamedTuple

import jax

from diffusionflow import times
from experiments.training.nonfinite import Faults
from experiments.training.running_metrics import RunningMetrics


class TrainState(NamedTuple):
    """Everything that a step changes.

    Fields:
      step: steps made so far, int32; also the number of the next batch.
      params: of the network.
      opt_state: of optax.
      ema: average of `params`, float32.
      sums: for the log.
      faults: steps that were not finite and made no update.
      moments: what an adaptive proposal has learned; None for any other.
      profiles: averages of power profiles, float32, one for each of the recipe's.
      teacher: weights of the network that is distilled, float32; None without one.
    """

    step: jax.Array
    params: Any
    opt_state: Any
    ema: Any
    sums: RunningMetrics
    faults: Faults
    moments: times.LossMoments | None = None
    profiles: tuple[Any, ...] = ()
    teacher: Any = None

    def checkpoint_items(self) -> dict[str, Any]:
        """Returns the state as the items of a checkpoint."""
        names = ("step", "opt_state", "sums", "faults")
        train = {name: getattr(self, name) for name in names}
        if self.moments is not None:
            train["moments"] = self.moments
        if self.profiles:
            train["profiles"] = self.profiles
        if self.teacher is not None:
            train["teacher"] = self.teacher
        return {"params": self.params, "ema": self.ema, "train": train}
