"""Precision: float32 at least, and float64 on the host where all is concrete."""

import contextlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from diffusionflow._dataclass import is_traced


def at_least_float32(value: ArrayLike) -> Array:
    """`value` as an array of a floating type of 32 bits or more."""
    value = jnp.asarray(value)
    if jnp.issubdtype(value.dtype, jnp.floating) and value.dtype.itemsize >= 4:
        return value
    return value.astype(jnp.float32)


def in_float64(fn: Callable[..., Any], *args: Any) -> Any:
    """`fn(*args)` in float64, or as it is where an argument is traced.

    Args:
      fn: a function of pytrees written with `jax.numpy`; it must close over nothing
        that could be traced.
      *args: pytrees of numbers and arrays.

    Returns:
      NumPy float64 arrays computed on the CPU if no leaf of `args` is traced; else
      the traced result in the dtypes of `args`.
    """
    if is_traced(args):
        return fn(*args)
    with jax.ensure_compile_time_eval(), jax.enable_x64(True), _cpu():
        return jax.tree.map(np.asarray, fn(*jax.tree.map(_widen, args)))


def _widen(leaf: Any) -> Any:
    if isinstance(leaf, (bool, int, float)):
        return leaf
    if jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
        return np.asarray(leaf, np.float64)
    return leaf


def _cpu() -> Any:
    try:
        return jax.default_device(jax.local_devices(backend="cpu")[0])
    except RuntimeError:  # JAX_PLATFORMS names an accelerator alone
        return contextlib.nullcontext()
