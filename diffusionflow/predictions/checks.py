"""Checks of data, times and results at the border to users' networks."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from diffusionflow._dataclass import is_traced
from diffusionflow._numeric import at_least_float32

ROUNDING = 4 * float(np.finfo(np.float32).eps)  # that times may be outside [0, 1]


def as_input(z: Array, t: ArrayLike, name: str = "z") -> tuple[Array, Array]:
    """Checks data and times and converts them to arrays for a network.

    Traced times outside [0, 1] become NaN.

    Args:
      z: `[*batch, *event]`.
      t: scalar or `[*batch]`.
      name: of `z`, for the message.

    Raises:
      ValueError: `z` or `t` is of integers, or a concrete time is outside [0, 1].
    """
    z = as_data(z, name)
    check_float("t", t, "write a float in [0, 1]; level i of T is t = i / T")
    check_unit_interval("t", t, ROUNDING)
    if not is_traced(t):
        return z, at_least_float32(t)
    t = at_least_float32(t)
    return z, jnp.where((t >= -ROUNDING) & (t <= 1 + ROUNDING), t, jnp.nan)


def as_data(x: Array, name: str) -> Array:
    """Converts data to a `jax.Array` of float32 or wider.

    Args:
      x: data, any shape.
      name: of `x`, for the message.

    Raises:
      ValueError: it is of integers, as images are on disk.
    """
    check_float(name, x, "scale it first, such as images / 127.5 - 1")
    return at_least_float32(x)


def check_float(name: str, value: ArrayLike, way_out: str) -> None:
    """Raises a `ValueError` unless an array is of floating numbers."""
    if not isinstance(value, float | int) and not hasattr(value, "dtype"):
        value = np.asarray(value)  # a list, or nothing of numbers
    dtype = getattr(value, "dtype", None) or jnp.result_type(value)
    if not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(
            f"{name} of dtype {dtype} and shape {np.shape(value)}: must be floating; "
            f"{way_out}"
        )


def check_unit_interval(name: str, t: ArrayLike, rounding: float = 0.0) -> None:
    """Raises a `ValueError` where a concrete time is outside [0, 1].

    Args:
      name: of the times, for the message.
      t: times, any shape. Traced values cannot be checked and pass.
      rounding: distance outside [0, 1] that is accepted.
    """
    if is_traced(t):
        return
    times = np.asarray(t)
    outside = ~((times >= -rounding) & (times <= 1 + rounding))
    if outside.any():
        raise ValueError(
            f"{name}={float(times[outside].ravel()[0])}: must be in [0, 1], 0 is data "
            "and 1 is noise; level i of T is t = i / T"
        )


def check_same_shape(name: str, value: Array, like_name: str, like: Array) -> None:
    """Raises a `ValueError` unless two arrays have the same shape.

    Args:
      name: of `value`, for the message.
      value: the array to check.
      like_name: of `like`, for the message.
      like: array of the required shape.
    """
    if np.shape(value) != np.shape(like):
        raise ValueError(
            f"{name} of shape {np.shape(value)}: must have the shape "
            f"{np.shape(like)} of {like_name}"
        )


def check_result(name: str, value: Any, z: Array | jax.ShapeDtypeStruct) -> None:
    """Raises a `ValueError` unless a result is a floating array of the shape of z."""
    if not hasattr(value, "dtype") or not hasattr(value, "shape"):
        raise ValueError(
            f"{name} is {describe(value)}: must be one array of the shape "
            f"{z.shape} of z; return the prediction alone"
        )
    if value.shape != z.shape:
        raise ValueError(
            f"{name} has shape {value.shape}: must be {z.shape}, that of z; reshape "
            "it in the function"
        )
    check_float(name, value, "a prediction is a real number")


def describe(value: Any) -> str:
    """Names a value in an error message: its shape, or its type."""
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"an array of shape {value.shape}"
    return f"a {type(value).__name__}"
