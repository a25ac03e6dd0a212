"""Linear operators by their action, and measurements `y = A x + std n`."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from diffusionflow._dataclass import (
    as_callable,
    check_count,
    check_instance,
    check_not_negative,
    is_traced,
    register,
    static,
)
from diffusionflow._numeric import at_least_float32
from diffusionflow.predictions import as_data


@register
class LinearOperator:
    """Linear operator A on events, by its action. See `linear`."""

    fn: Any
    transpose_fn: Any
    measured: Any  # bools [*output] where some of it is no measurement, or None
    event_shape: tuple[int, ...] = static()

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Shape of `A x` for one event."""
        return jax.eval_shape(self.fn, self._event(jnp.float32)).shape

    def __call__(self, x: Array) -> Array:
        """Applies A: `[*batch, *event]` to `[*batch, *output]`."""
        return _over_batch(self.fn, x, self.event_shape)

    def transpose(self, y: Array) -> Array:
        """Applies the transpose of A: `[*batch, *output]` to `[*batch, *event]`."""
        fn = self.transpose_fn
        if fn is None:
            transpose = jax.linear_transpose(self.fn, self._event(y.dtype))
            fn = lambda y: transpose(y)[0]
        return _over_batch(fn, y, self.output_shape)

    def matrix(self) -> Array:
        """Computes A as a matrix, `[outputs, features]`, one column at a time."""
        features = math.prod(self.event_shape)
        basis = jnp.eye(features).reshape(features, *self.event_shape)
        return self(basis).reshape(features, -1).T

    def _event(self, dtype: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(self.event_shape, dtype)


def linear(
    fn: Callable[[Array], Array],
    event_shape: tuple[int, ...],
    *,
    transpose_fn: Callable[[Array], Array] | None = None,
) -> LinearOperator:
    """Makes a linear operator of any linear function of one event.

    Args:
      fn: `[*event] -> [*output]`, linear (without a constant).
      event_shape: of an event.
      transpose_fn: `[*output] -> [*event]`, the transpose, such as a faster one; by
        default `jax.linear_transpose` of `fn`.

    Returns:
      A registered callable on batches, with `transpose` and `matrix`.

    Raises:
      ValueError: when applied, where an array does not end in the event.

    Example: differences of neighbours.
      >>> operator = linear(jnp.diff, (4,))
      >>> print(operator(jnp.array([[1.0, 2.0, 4.0, 7.0]])))
      [[1. 2. 3.]]
      >>> print(operator.transpose(jnp.array([1.0, 0.0, 0.0])))
      [-1.  1.  0.  0.]
    """
    back = None if transpose_fn is None else as_callable(transpose_fn)
    return LinearOperator(as_callable(fn), back, None, tuple(event_shape))


@register
class _Masked:
    mask: Any

    def __call__(self, x: Array) -> Array:
        return x * jnp.asarray(self.mask, x.dtype)


@register
class _Blurred:
    kernel: Any

    def __call__(self, x: Array) -> Array:
        kernel = jnp.asarray(self.kernel, x.dtype)
        blur = lambda x: jax.scipy.signal.convolve(x, kernel, mode="same")
        return jax.vmap(blur, in_axes=-1, out_axes=-1)(x)


@register
class _Averaged:
    factor: int = static()

    def __call__(self, x: Array) -> Array:
        for axis in range(x.ndim - 1):
            blocks = (x.shape[axis] // self.factor, self.factor)
            shape = (*x.shape[:axis], *blocks, *x.shape[axis + 1 :])
            x = x.reshape(shape).mean(axis + 1)
        return x


@register
class _Multiplied:
    matrix: Any

    def __call__(self, x: Array) -> Array:
        matrix = jnp.asarray(self.matrix, x.dtype)
        return jnp.matmul(matrix, x.reshape(-1), precision=jax.lax.Precision.HIGHEST)


def masking(mask: ArrayLike) -> LinearOperator:
    """Makes the masking operator: `x` where `mask` is True, 0 elsewhere, like an event.

    Args:
      mask: bools, `[*event]`, True where x is measured. Values of y elsewhere have no
        influence.

    Raises:
      ValueError: `mask` is not of bools.
    """
    if not jnp.issubdtype(jnp.result_type(mask), jnp.bool_):
        raise ValueError(
            f"mask has dtype {jnp.result_type(mask)}: must be bool, True where x is "
            "measured; write mask > 0"
        )
    return LinearOperator(_Masked(mask), _Masked(mask), mask, jnp.shape(mask))


def blurring(kernel: ArrayLike, event_shape: tuple[int, ...]) -> LinearOperator:
    """Makes the blur: convolution of each channel with a kernel, zero beyond the edges.

    Args:
      kernel: `[*taps]`, one axis for each of the sizes.
      event_shape: `[*sizes, channels]`.

    Raises:
      ValueError: the kernel has another number of axes, or is not finite.
    """
    _check_numbers("kernel", kernel)
    if jnp.ndim(kernel) != len(event_shape) - 1 or not jnp.ndim(kernel):
        raise ValueError(
            f"a kernel of shape {jnp.shape(kernel)} for events {tuple(event_shape)}: "
            "must have an axis for each of the sizes, and none for the channels"
        )
    return linear(_Blurred(kernel), event_shape)


def averaging(factor: int, event_shape: tuple[int, ...]) -> LinearOperator:
    """Averages over blocks, which super-resolution inverts.

    Args:
      factor: side of the blocks, a divisor of the sizes.
      event_shape: `[*sizes, channels]`.

    Raises:
      ValueError: `factor` does not divide a size, or there is no size.
    """
    check_count("factor", factor)
    if len(event_shape) < 2:
        raise ValueError(
            f"event_shape={tuple(event_shape)}: must be [*sizes, channels], and the "
            "channels are not averaged"
        )
    if any(size % factor for size in event_shape[:-1]):
        raise ValueError(
            f"factor={factor}: must divide the sizes {tuple(event_shape[:-1])}"
        )
    return linear(_Averaged(factor), event_shape)


def multiplication(matrix: ArrayLike, event_shape: tuple[int, ...]) -> LinearOperator:
    """Multiplies by a matrix, such as a random one of compressed sensing.

    Args:
      matrix: `[outputs, features]`.
      event_shape: of an event; it is flattened.

    Raises:
      ValueError: the event has another number of features, or the matrix is not finite.
    """
    _check_numbers("matrix", matrix)
    if jnp.ndim(matrix) != 2 or jnp.shape(matrix)[1] != math.prod(event_shape):
        raise ValueError(
            f"a matrix of shape {jnp.shape(matrix)} for events {tuple(event_shape)}: "
            f"must be [outputs, {math.prod(event_shape)}]"
        )
    return linear(_Multiplied(matrix), event_shape)


def _check_numbers(name: str, value: Any) -> None:
    """Raises a `ValueError` unless an array is of real numbers, finite where known."""
    known = not is_traced(value)
    array = np.asarray(value) if known else value
    if array.dtype.kind not in "fiu":
        raise ValueError(f"{name} has dtype {array.dtype}: must be of real numbers")
    if known and not (finite := np.isfinite(array)).all():
        raise ValueError(
            f"{name}: {(~finite).sum():,} of {finite.size:,} numbers are not finite"
        )


@register
class Measurement:
    """Measurement `y = A x + std n` with `n ~ N(0, I)`.

    Args:
      operator: A, a `LinearOperator`.
      y: `[*output]`, or `[*batch, *output]` for one of each example.
      std: standard deviation of the noise, a number of at least 0.

    Raises:
      ValueError: `std` is negative or infinite; in a call, it is an array, or `y` is of
        integers, as images are on disk.
    """

    operator: Any
    y: Any
    std: Any

    def __post_init__(self) -> None:
        check_instance("operator", self.operator, "inverse.linear(fn, event_shape)")
        check_not_negative("std", self.std)

    def values(self) -> Array:
        """Returns `y` as an array of float32 or wider."""
        return as_data(self.y, "y")

    def residual(self, x: Array) -> Array:
        """Computes `y - A x`, `[*batch, *output]`; 0 where nothing is measured.

        Raises:
          ValueError: `y` is not of the shape of `A x`, or of the end of it.
        """
        prediction = self.operator(x)
        y = self.values().astype(prediction.dtype)
        shape, output = prediction.shape, len(self.operator.output_shape)
        if y.shape not in (shape, shape[len(shape) - output :]):
            raise ValueError(
                f"y of shape {y.shape} for A x of shape {shape}: must be that, or "
                f"{shape[len(shape) - output :]} for all examples"
            )
        residual = jnp.broadcast_to(y, shape) - prediction
        if self.operator.measured is None:
            return residual
        return jnp.where(jnp.broadcast_to(self.operator.measured, shape), residual, 0)

    def variance(self, like: Array) -> Array:
        """Computes `std^2`, in the type of `like`."""
        if np.ndim(self.std):
            raise ValueError(
                f"std of shape {np.shape(self.std)}: must be one number for all of y"
            )
        return at_least_float32(self.std).astype(like.dtype) ** 2


MOST_ITERATIONS = 1_000  # each is a part of the program


def solve(
    matvec_fn: Callable[[Array], Array], y: Array, event_ndim: int, num_iterations: int
) -> Array:
    """Solves `M x = y` of each example by so many conjugate gradients.

    Exact, but for rounding, after as many iterations as M has different eigenvalues. An
    example whose residual is 0 stays where it is.

    Args:
      matvec_fn: M, symmetric and positive, on `[*batch, *event]`; examples must not
        mix.
      y: `[*batch, *event]`.
      event_ndim: number of axes of the event.
      num_iterations: at least 1, each one call of `matvec_fn`.

    Source: Hestenes and Stiefel 1952, Methods of conjugate gradients for solving linear
    systems.
    """
    axes = tuple(range(y.ndim - event_ndim, y.ndim))
    dot = lambda a, b: jnp.sum(a * b, axis=axes, keepdims=True)
    ratio = lambda a, b: jnp.where(b > 0, a / jnp.where(b > 0, b, 1), 0)
    x, residual, direction = jnp.zeros_like(y), y, y
    for _ in range(num_iterations):  # few, and without the overhead of a loop
        image, size = matvec_fn(direction), dot(residual, residual)
        step = ratio(size, dot(direction, image))
        x, residual = x + step * direction, residual - step * image
        direction = residual + ratio(dot(residual, residual), size) * direction
    return x


def _over_batch(
    fn: Callable[[Array], Array], x: Array, event: tuple[int, ...]
) -> Array:
    start = x.ndim - len(event)
    if start < 0 or x.shape[start:] != event:
        raise ValueError(f"an array of shape {x.shape}: must end in {event}, the event")
    batch = x.shape[:start]
    rows = x.reshape(-1, *event)
    result = jax.vmap(fn)(rows)
    return result.reshape(*batch, *result.shape[1:])
