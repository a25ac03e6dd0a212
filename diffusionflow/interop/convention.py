"""Conventions of networks trained elsewhere: schedule, prediction type, time, scale."""

from collections.abc import Callable
from typing import Any

from jax import Array
from jax.typing import ArrayLike

from diffusionflow import predictions
from diffusionflow._dataclass import as_callable, register, static
from diffusionflow._numeric import at_least_float32
from diffusionflow.predictions import PredictFn


@register
class Convention:
    """Describes how to call a network of another source, in this library's terms.

    `prediction(z, t) = sign net_fn(scale_fn(t) z, clock_fn(t))`. A network is called at
    the levels it was trained on: one of a chain of T levels has none below t = 1 / T,
    and its `clock_fn` refuses concrete times there (see `from_diffusers`).

    Args:
      schedule: the one that t belongs to.
      kind: prediction type.
      clock_fn: `t -> ` the network's time input, of the shape of t.
      scale_fn: `t -> ` the factor on z at the network's input, of the shape of t.
      sign: 1, or -1 where the network's output is minus our prediction.
    """

    schedule: Any
    kind: Any
    clock_fn: Any
    scale_fn: Any
    sign: int = static(default=1)

    def __post_init__(self) -> None:
        object.__setattr__(self, "kind", predictions.as_kind(self.kind))

    def predict_fn(self, net_fn: Callable[[Array, Array], Array]) -> PredictFn:
        """Converts the source's `net_fn(z, time)` to a `predict_fn(z, t)` of ours.

        Args:
          net_fn: the source's network: its own time, `[*batch]`, its own scale of z.

        Returns:
          A registered callable, of prediction type `kind` on schedule `schedule`.
        """
        return Wrapped(as_callable(net_fn), self)


@register
class Wrapped:
    """Adapts a network of another convention: `Convention.predict_fn`.

    Args:
      net_fn: with the arguments of its convention.
      convention: a `Convention`.
    """

    net_fn: Any
    convention: Any

    def __call__(self, z: Array, t: ArrayLike) -> Array:
        z, t = at_least_float32(z), at_least_float32(t)
        convention = self.convention
        scale = predictions.per_event(convention.scale_fn(t), z)
        return convention.sign * self.net_fn(scale * z, convention.clock_fn(t))


@register
class Affine:
    """`slope t + start`, a clock or a scale."""

    slope: float
    start: float

    def __call__(self, t: Array) -> Array:
        return self.slope * t + self.start


UNSCALED = Affine(0.0, 1.0)
