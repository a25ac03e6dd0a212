"""What is trained and sampled: network, objective and transform, put together."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from diffusionflow import guidance, objectives, predictions
from experiments.config import build
from experiments.data import DataSet, DataTransform

Params = Any


class Model(NamedTuple):
    """The parts that training and sampling share.

    Fields:
      net: Flax module, `apply({"params": p}, z, time, label, train=..., rngs=...)`.
      objective: what is learned.
      transform: between stored values and floats.
      event_shape: [height, width, channels] or [features].
      num_classes: labels are 0..num_classes-1; `num_classes` itself is the null label.
      sigma_data: root mean square of the data that the input scale assumes.
    """

    net: Any
    objective: objectives.Objective
    transform: DataTransform
    event_shape: tuple[int, ...]
    num_classes: int
    sigma_data: float

    def init(self, key: jax.Array) -> Params:
        """Fresh parameters; not jitted."""
        z = jnp.zeros((1, *self.event_shape))
        time, label = jnp.full(1, 0.5), jnp.zeros(1, jnp.int32)
        return self.net.init(key, z, time, label, train=False)["params"]

    def predict_fn(
        self, params: Params, label: jax.Array, dropout_key: jax.Array | None = None
    ) -> predictions.PredictFn:
        """`(z, t) -> prediction` for labels [batch]; trains if given a dropout key."""

        def net_fn(z: jax.Array, time: jax.Array) -> jax.Array:
            time = jnp.broadcast_to(time, z.shape[:1])
            train = dropout_key is not None
            rngs = {"dropout": dropout_key} if train else {}
            variables = {"params": params}
            return self.net.apply(variables, z, time, label, train=train, rngs=rngs)

        return predictions.precondition(
            net_fn, schedule=self.objective.schedule, sigma_data=self.sigma_data
        )

    def denoise_fn(
        self, params: Params, label: jax.Array, scale: float | jax.Array
    ) -> predictions.DenoiseFn:
        """`(z, t) -> Denoised` with classifier-free guidance.

        Args:
          params: of the network.
          label: [batch].
          scale: of the guidance. The Python numbers 1 and 0 mean conditional and
            unconditional, at one network call; any other value costs two.
        """

        def denoise(label: jax.Array) -> predictions.DenoiseFn:
            return predictions.denoiser(
                self.predict_fn(params, label),
                kind=self.objective.kind,
                schedule=self.objective.schedule,
            )

        null_label = jnp.full_like(label, self.num_classes)
        if isinstance(scale, (int, float)) and scale in (0, 1):
            return denoise(label if scale else null_label)
        return guidance.classifier_free(
            denoise(label), denoise(null_label), scale=scale
        )


def from_config(config: Mapping[str, Any], dataset: DataSet) -> Model:
    """The model of a run.

    Args:
      config: with sections `network`, `objective` and the value `sigma_data`.
      dataset: gives shape, classes and transform.
    """
    return _make(
        config, dataset.event_shape, dataset.num_classes, dataset.transform.levels
    )


def from_identity(identity: Mapping[str, Any]) -> Model:
    """The model of a checkpoint, without its data set.

    Args:
      identity: as the checkpoint carries it.
    """
    facts = identity["data"]
    return _make(
        identity["config"],
        tuple(facts["event_shape"]),
        facts["num_classes"],
        facts["levels"],
    )


def _make(
    config: Mapping[str, Any],
    event_shape: tuple[int, ...],
    num_classes: int,
    levels: int | None,
) -> Model:
    return Model(
        net=build.network(config["network"], num_classes),
        objective=build.objective(config["objective"]),
        transform=DataTransform(levels),
        event_shape=event_shape,
        num_classes=num_classes,
        sigma_data=config["sigma_data"],
    )
