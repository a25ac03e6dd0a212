"""Pairs of examples and noise in a training step, by a coupling.

A coupling permutes the noise of a batch in groups of consecutive examples. It runs on
each device by itself, so the groups must divide what a device has of a batch; pairs are
then the same whatever the number of devices. Noise moves inside labels where the data
have classes, before any are dropped. A semidiscrete coupling moves no noise, but takes
another example of the data set for it.

Held-out examples are coupled among themselves, in the same way.
"""

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from diffusionflow import couplings, random
from experiments.data.base import DataSet, DataTransform, Examples, Lazy
from experiments.runtime.errors import UsageError, require

ALONE = couplings.Independent, couplings.Semidiscrete  # of each example by itself
MOST = 2**24  # numbers of a data set that every device of a run holds


@dataclasses.dataclass(frozen=True)
class Semidiscrete:
    """Settings of `couplings.Semidiscrete.fit`, which a run calls when it starts.

    Args:
      num_steps: of the fit.
      batch_size: draws of noise in a step of it.
      rate: size of its steps.
    """

    num_steps: int = 2000
    batch_size: int = 256
    rate: float = 1.0

    def fit(
        self, key: jax.Array, examples: Examples, transform: DataTransform, classes: int
    ) -> couplings.Semidiscrete:
        """Fits the coupling of noise with all `examples`, within each of the `classes`.

        Raises:
          UsageError: they are read when asked for, or too many.
        """
        values, name = examples.values, "objective.coupling: semidiscrete"
        if isinstance(values, Lazy) or math.prod(values.shape) > MOST:
            raise UsageError(
                f"{name}: holds all examples, here {list(values.shape)}, and those "
                f"must be in memory and of at most {MOST:,} numbers; take assignment"
            )
        fitted = couplings.Semidiscrete.fit(
            key,
            transform.to_float(values),
            examples.labels if classes else None,
            num_steps=self.num_steps,
            batch_size=self.batch_size,
            rate=self.rate,
        )
        return jax.tree.map(np.asarray, fitted)  # a constant of every process


class Coupled(NamedTuple):
    """A coupling on the devices of a run.

    Fields:
      coupling: `(key, x, eps, labels) -> Pairs`.
      mesh: over whose axes a batch is cut.
    """

    coupling: Any
    mesh: Mesh

    def __call__(
        self,
        keys: jax.Array,
        x: jax.Array,
        labels: jax.Array | None,
        counts: jax.Array | None = None,
    ) -> couplings.Pairs:
        """Pairs a batch with the noise that `losses.objective_terms` would draw.

        Args:
          keys: of the loss, one for each example.
          x: examples [batch, *event], floats.
          labels: inside which noise moves; None for data without classes.
          counts: bool [batch], False for copies that only fill the batch up, which have
            one noise: these are matched among themselves. None if there are none.
        """
        if counts is not None and not isinstance(self.coupling, ALONE):
            labels = jnp.zeros_like(counts, int) if labels is None else labels
            labels = jnp.where(counts, labels, -1)
        _, noise_keys, own_keys = random.split(keys, 3)  # the first two as there
        eps = random.normal(noise_keys, x.shape, x.dtype)
        cut = PartitionSpec(self.mesh.axis_names)
        each = jax.shard_map(
            self.coupling, mesh=self.mesh, in_specs=cut, out_specs=cut, check_vma=False
        )
        return each(own_keys, x, eps, labels)


def check_data(coupling: Any, dataset: DataSet) -> None:
    """Checks that a coupling leaves the model of a data set right.

    Raises:
      UsageError: the examples have noise of their own, or vectors: noise would depend
        on these, and does not when they are given to a sampler; or examples move, and
        what is drawn of them, or masks, would not.
    """
    name = "objective.coupling"
    if dataset.train.noise is not None:
        raise UsageError(f"{name}: the data are pairs already; leave it empty")
    if dataset.train.conditions is not None:
        raise UsageError(
            f"{name}: the data have conditions, vectors that the network sees: paired "
            "noise would depend on them, and in sampling it does not; leave it empty, "
            "or name no conditions in config.data"
        )
    moves = isinstance(coupling, (Semidiscrete, couplings.Semidiscrete))
    if moves and (dataset.augment_fn is not None or dataset.train.mask is not None):
        raise UsageError(
            f"{name}: semidiscrete takes other examples of the data, without their "
            "flips (or other draws) and masks; take assignment, or leave these out"
        )


def check(coupling: Any, batch_size: int) -> None:
    """Checks that groups do not depend on the devices.

    Raises:
      UsageError: the group does not divide the examples of a device, or a coupling of
        one's own has none and there are several devices.
    """
    count = jax.device_count()
    own, name = batch_size // count, "objective.coupling"
    if isinstance(coupling, (*ALONE, Semidiscrete)):
        return
    group = getattr(coupling, "group", None)
    if group is None:
        if count > 1:
            raise UsageError(
                f"{name}: {type(coupling).__name__} has no `group`, so its pairs would "
                f"depend on the {count} devices; give it a field `group`, of examples "
                "that are matched with one another, or use one device"
            )
        return
    words = f"batch_size={batch_size} over {count} devices" if count > 1 else "a batch"
    bound = f"a divisor of {own}, the examples of {words}"
    require(f"{name}: group", group, own % group == 0, f"{bound}; or choose batch_size")
