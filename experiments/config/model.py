"""What is trained and sampled: network, objective and data transform of a run."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from diffusionflow import distillation, guidance, objectives, predictions
from experiments.config import methods
from experiments.config.published import PublishedNetwork
from experiments.data.base import DataTransform
from experiments.runtime.errors import UsageError

Params = Any


class Model(NamedTuple):
    """The parts that training and sampling share.

    Fields:
      net: Flax module, `apply({"params": p}, z, time, label, train=..., rngs=...)`,
        with `vector` after `label` where the data have vectors, and `second_time=`
        where it has a true `two_times`.
      objective: what is learned.
      transform: between stored values and floats.
      event_shape: such as [height, width, channels] or [features].
      num_classes: labels are 0..num_classes-1; `num_classes` itself is the null label.
      sigma_data: root mean square of the data that the input scale assumes.
      vector_features: of the vectors to condition on; 0 for none. Zeros are the null
        vector.
      method: by which a few-step model is trained; None for the objective alone.
    """

    net: Any
    objective: objectives.Objective
    transform: DataTransform
    event_shape: tuple[int, ...]
    num_classes: int
    sigma_data: float
    vector_features: int = 0
    method: methods.Method | None = None

    @property
    def predicts_at_one_time(self) -> bool:
        """Whether `(z, t) -> prediction` is what the objective is about.

        The network of a method such as progressive distillation only jumps.
        """
        return self.method is None or self.method.diagonal

    @property
    def two_times(self) -> bool:
        """Whether the network takes a second time."""
        return bool(getattr(self.net, "two_times", False))

    def init(self, key: jax.Array) -> Params:
        """Initializes the parameters; not jitted."""
        z = jnp.zeros((1, *self.event_shape))
        conditions = [jnp.full(1, 0.5), jnp.zeros(1, jnp.int32)]
        if self.vector_features:
            conditions.append(jnp.zeros((1, self.vector_features)))
        second = dict(second_time=jnp.zeros(1)) if self.two_times else {}
        return self.net.init(key, z, *conditions, train=False, **second)["params"]

    def without(
        self, label: jax.Array, vector: jax.Array | None
    ) -> tuple[jax.Array, jax.Array | None]:
        """Returns null labels and vectors, as many as the given ones."""
        null = jnp.full_like(label, self.num_classes)
        return null, None if vector is None else jnp.zeros_like(vector)

    def predict_fn(
        self,
        params: Params,
        label: jax.Array,
        dropout_key: jax.Array | None = None,
        vector: jax.Array | None = None,
    ) -> Callable[..., jax.Array]:
        """Makes `(z, t, s=None) -> prediction`, in training if given a dropout key.

        A second time `s` is for networks of two times; None means `t`.

        Args:
          params: of the network.
          label: [batch].
          dropout_key: of the network's dropout, or None.
          vector: [batch, vector_features], or None where the data have none.

        Raises:
          UsageError: at a call with `s`: the network takes one time.
        """
        conditions = (label,) if vector is None else (label, vector)
        train = dropout_key is not None

        def apply(
            params: Params, z: jax.Array, time: jax.Array, conditions: Any, more: Any
        ) -> jax.Array:
            rngs = {"dropout": dropout_key} if train else {}
            return self.net.apply(
                {"params": params}, z, time, *conditions, train=train, rngs=rngs, **more
            )

        if not train:  # solvers call it several times a step: traced once
            apply = jax.jit(apply)

        def net_fn(z: jax.Array, *times: jax.Array) -> jax.Array:
            time, *second = (jnp.broadcast_to(time, z.shape[:1]) for time in times)
            if second and not self.two_times:
                raise UsageError(
                    f"the network {type(self.net).__name__} takes one time, and is "
                    "given two: set network.two_times=True"
                )
            more = {"second_time": second[0]} if second else {}
            return apply(params, z, time, conditions, more)

        if isinstance(self.net, PublishedNetwork):
            convention = self.net.calling(self.objective, self.sigma_data)
            return convention.predict_fn(net_fn)
        return predictions.precondition(
            net_fn, schedule=self.objective.schedule, sigma_data=self.sigma_data
        )

    def denoise_fn(
        self,
        params: Params,
        label: jax.Array,
        scale: float | jax.Array,
        vector: jax.Array | None = None,
    ) -> predictions.DenoiseFn:
        """Makes the denoiser `(z, t) -> Denoised` with classifier-free guidance.

        Without guidance that of a network of two times is a flow map, too, whose jumps
        `samplers.FlowMap` makes.

        Args:
          params: of the network.
          label: [batch].
          scale: of the guidance. The Python numbers 1 and 0 mean conditional and
            unconditional, at one network call; any other value costs two.
          vector: [batch, vector_features], or None where the data have none.
        """

        def denoise(label: jax.Array, vector: Any) -> predictions.DenoiseFn:
            make = distillation.flow_map if self.two_times else predictions.denoiser
            return make(
                self.predict_fn(params, label, vector=vector),
                kind=self.objective.kind,
                schedule=self.objective.schedule,
            )

        own, null = (label, vector), self.without(label, vector)
        if isinstance(scale, (int, float)) and scale in (0, 1):
            return denoise(*(own if scale else null))
        return guidance.classifier_free(denoise(*own), denoise(*null), scale=scale)
