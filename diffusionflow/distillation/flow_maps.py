"""Flow maps of two-time networks, and the denoisers on their diagonal."""

from typing import Any

from jax import Array
from jax.typing import ArrayLike

from diffusionflow import predictions
from diffusionflow._dataclass import (
    as_callable,
    check_count,
    is_traced,
    register,
    static,
)
from diffusionflow.distillation.jumps import TwoTimeFn, jump
from diffusionflow.predictions import (
    AnyKind,
    Denoised,
    Denoiser,
    as_kind,
    to_denoised,
)
from diffusionflow.schedules import Schedule, as_schedule


@register
class FlowMapDenoiser(Denoiser):
    """Flow map, and on its diagonal a denoiser. See `flow_map`."""

    predict_fn: Any
    kind: Any
    schedule: Any
    calls: int = static(default=1)

    def __call__(self, z: Array, t: ArrayLike, s: ArrayLike | None = None) -> Any:
        if s is None:
            return super().__call__(z, t)
        if not is_traced(t):
            self.check_times(t)
        (z, t), (_, s) = predictions.as_input(z, t), predictions.as_input(z, s)
        p = self.predict_fn(z, t, s)
        return jump(p, z=z, t=t, s=s, kind=self.kind, schedule=self.schedule)

    def denoise(self, z: Array, t: Array) -> Denoised:
        return self.denoise_toward(z, t, t)

    def denoise_toward(self, z: Array, t: Array, s: Array) -> Denoised:
        p = self.predict_fn(z, t, s)
        return to_denoised(p, kind=self.kind, z=z, t=t, schedule=self.schedule)

    def has_second_time(self) -> bool:
        return True

    def num_network_calls(self, t: ArrayLike) -> int:
        del t
        return self.calls

    def check_times(self, t: ArrayLike) -> None:
        predictions.check_determined(self.kind, t, schedule=self.schedule)


def flow_map(
    predict_fn: TwoTimeFn,
    *,
    kind: AnyKind,
    schedule: Schedule,
    num_network_calls: int = 1,
) -> FlowMapDenoiser:
    """Makes a two-time network a flow map `(z, t, s) -> z_s`.

    `z_s = A z + B predict_fn(z, t, s)`; nothing has to be learned for `z_t = z` at
    s = t. Called as `(z, t)` it is a denoiser, the diagonal `predict_fn(z, t, t)`, and
    goes into every sampler and guidance; `samplers.FlowMap` makes the jumps.

    Args:
      predict_fn: `(z, t, s) -> prediction`, of z's shape; a pytree (`Partial`, a
        registered callable) keeps its arrays as data under `jit`.
      kind: prediction type of the network.
      schedule: the one that the times belong to.
      num_network_calls: what one call of `predict_fn` counts in the NFE.

    Returns:
      A `Denoiser` that may be called with a second time.

    Raises:
      ValueError: the kind is unknown, `schedule` is no schedule, `predict_fn` no
        function of a network, or `num_network_calls` below 1.

    Example:
      >>> import jax.numpy as jnp
      >>> from diffusionflow import schedules
      >>> settings = dict(kind="u", schedule=schedules.FlowMatching())
      >>> flow_map_fn = flow_map(lambda z, t, s: z / t, **settings)  # all data are 0
      >>> print(flow_map_fn(jnp.ones((1, 2)), 0.8, 0.2))
      [[0.25 0.25]]
      >>> print(flow_map_fn(jnp.ones((1, 2)), 0.8).x)
      [[0. 0.]]
    """
    if isinstance(predict_fn, (type, Denoiser)) or not callable(predict_fn):
        raise ValueError(
            f"predict_fn={predict_fn!r}: must be a function (z, t, s) -> prediction"
        )
    check_count("num_network_calls", num_network_calls)
    return FlowMapDenoiser(
        as_callable(predict_fn), as_kind(kind), as_schedule(schedule), num_network_calls
    )
