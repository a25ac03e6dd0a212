"""The denoiser of a network."""

from collections.abc import Callable
from typing import Any

from jax import Array
from jax.typing import ArrayLike

from diffusionflow._dataclass import as_callable, check_count, register, static
from diffusionflow.predictions.conversion import to_denoised
from diffusionflow.predictions.denoisers import Denoised, Denoiser
from diffusionflow.predictions.kinds import AnyKind, as_kind, check_determined
from diffusionflow.schedules import Schedule, as_schedule

PredictFn = Callable[[Array, Array], Array]


@register
class NetworkDenoiser(Denoiser):
    """Denoiser of a network of any prediction type. See `denoiser`."""

    predict_fn: Any
    kind: Any
    schedule: Any
    calls: int = static(default=1)

    def denoise(self, z: Array, t: Array) -> Denoised:
        value = self.predict_fn(z, t)
        return to_denoised(value, kind=self.kind, z=z, t=t, schedule=self.schedule)

    def num_network_calls(self, t: ArrayLike) -> int:
        del t
        return self.calls

    def check_times(self, t: ArrayLike) -> None:
        check_determined(self.kind, t, schedule=self.schedule)


def denoiser(
    predict_fn: PredictFn,
    *,
    kind: AnyKind,
    schedule: Schedule,
    num_network_calls: int = 1,
) -> NetworkDenoiser:
    """Makes a network a denoiser `(z, t) -> Denoised`, for samplers and likelihoods.

    Args:
      predict_fn: `(z, t) -> prediction`, of `z`'s shape; a pytree (`Partial`, a
        registered callable) keeps its arrays as data under `jit`, a bare function is
        compared by identity.
      kind: prediction type of the network.
      schedule: the one that `t` belongs to.
      num_network_calls: what one call of `predict_fn` counts as in the NFE (number of
        function evaluations) of samplers; 2 for a function with guidance of its own.

    Returns:
      A `Denoiser`.

    Raises:
      ValueError: the kind is unknown, `schedule` is no schedule, `predict_fn` no
        function of a network, or `num_network_calls` below 1.

    Example:
      >>> import jax.numpy as jnp
      >>> from diffusionflow import schedules
      >>> flow = schedules.FlowMatching()
      >>> denoise_fn = denoiser(lambda z, t: -z, kind="u", schedule=flow)
      >>> print(denoise_fn(jnp.ones((1, 2)), 0.5).x)  # z - t u
      [[1.5 1.5]]
      >>> denoise_fn.num_network_calls(0.5)
      1
    """
    if isinstance(predict_fn, (type, Denoiser)) or not callable(predict_fn):
        raise ValueError(
            f"predict_fn={predict_fn!r}: must be a function (z, t) -> prediction, such "
            "as lambda z, t: net.apply(params, z, t)"
        )
    check_count("num_network_calls", num_network_calls)
    return NetworkDenoiser(
        as_callable(predict_fn), as_kind(kind), as_schedule(schedule), num_network_calls
    )
