"""Chooses the form of an operation by the platform that a program is lowered for.

On a CPU some operations of a network are fast as matrix products alone; on an
accelerator the plain broadcast, reduction and convolution are. Values and gradients
are the same to rounding, parameters are the same.

The choice is made once, in Python, while a program is traced. `lax.platform_dependent`
would trace and store both forms of each operation, in the backward pass too.
"""

import contextlib
import contextvars
from collections.abc import Iterator
from typing import NamedTuple

import jax


class Target(NamedTuple):
    """What programs are lowered for.

    Fields:
      platform: as JAX names it for lowering: "cpu", "cuda", "rocm", "tpu", ...
      head_features: the most features of a head that cuDNN's fused attention takes:
        256 from compute capability 9.0 on (H100, H200), 128 from 8.0 on, else 0.
    """

    platform: str
    head_features: int = 0

    @property
    def is_cpu(self) -> bool:
        """Whether it is a CPU."""
        return self.platform == "cpu"


_TARGET: contextvars.ContextVar[Target | None] = contextvars.ContextVar(
    "target", default=None
)
_FUSED: contextvars.ContextVar[bool] = contextvars.ContextVar("fused", default=False)


def target() -> Target:
    """Returns what is lowered for here: see `lowered_for`, else the default device."""
    chosen = _TARGET.get()
    if chosen is not None:
        return chosen
    chosen_device = jax.config.jax_default_device  # type: ignore[attr-defined]
    device = chosen_device or jax.local_devices()[0]
    if isinstance(device, str):
        device = jax.local_devices(backend=device)[0]
    return _of_device(device)


@contextlib.contextmanager
def lowered_for(chosen: Target) -> Iterator[None]:
    """Has networks that are traced inside the `with` block take the forms of a target.

    For `jax.jit(fn).trace(...).lower(lowering_platforms=(platform,))` on another
    machine. A function that JAX has traced before keeps its forms: trace a new one.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from diffusionflow.networks import ResidualMLP, platform
      >>> net, z = ResidualMLP(features=8, num_blocks=1), jnp.ones((2, 3))
      >>> params = net.init(jax.random.key(0), z, jnp.ones(2))
      >>> with platform.lowered_for(platform.Target("tpu")):
      ...     traced = jax.jit(net.apply).trace(params, z, jnp.ones(2))
      >>> lowered = traced.lower(lowering_platforms=("tpu",))
    """
    token = _TARGET.set(chosen)
    try:
        yield
    finally:
        _TARGET.reset(token)


@contextlib.contextmanager
def fused_attention(allowed: bool = True) -> Iterator[None]:
    """Lets attention inside the `with` block use cuDNN's kernels where they are.

    They have a reverse mode and no forward mode: no `jax.jvp` or `jax.linearize` of a
    network that was traced inside. Elsewhere than on CUDA, for other types than
    bfloat16 and float16, and for heads that the kernels do not take, nothing changes.

    Args:
      allowed: False takes the plain form everywhere.
    """
    token = _FUSED.set(allowed)
    try:
        yield
    finally:
        _FUSED.reset(token)


def takes_fused_attention(query: jax.Array) -> bool:
    """Returns whether attention is fused for query [batch, tokens, heads, features]."""
    features = query.shape[-1]
    fits = features <= target().head_features and features % 8 == 0
    return _FUSED.get() and fits and query.dtype in ("bfloat16", "float16")


def _of_device(device: jax.Device) -> Target:
    if device.platform != "gpu":
        return Target(device.platform)
    capability = str(getattr(device, "compute_capability", ""))
    if not capability.replace(".", "", 1).isdecimal():  # of ROCm, such as gfx90a
        return Target("rocm")
    generation = int(capability.partition(".")[0])
    return Target("cuda", {8: 128}.get(generation, 256 if generation > 8 else 0))
