"""Precision: float32 at least, and float64 on the host where all is concrete."""

import contextlib
import functools
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from diffusionflow import _xp as xp
from diffusionflow._dataclass import is_number, is_traced


def at_least_float32(value: ArrayLike) -> Array:
    """Converts data to a `jax.Array` of a floating type of 32 bits or more."""
    value = jnp.asarray(value)
    if jnp.issubdtype(value.dtype, jnp.floating) and value.dtype.itemsize >= 4:
        return value
    return value.astype(jnp.float32)


def floating(value: ArrayLike) -> Array:
    """Converts times and levels to floats: NumPy float64 unless they are JAX's.

    A `jax.Array` stays one, of 32 bits or more.
    """
    if xp.on_host(value):
        number: Any = np.asarray(value, np.float64)[()]
        return number
    return at_least_float32(value)


def in_type_of(array: Array, values: Iterable[ArrayLike]) -> tuple[Array, ...]:
    """Casts `values` to the type of `array`, as JAX arrays if it is one."""
    if xp.on_host(array):
        return tuple(cast(value, array) for value in values)
    return tuple(jnp.asarray(value).astype(array.dtype) for value in values)


def cast(value: ArrayLike, like: Array) -> Array:
    """Casts `value` to the dtype of `like`, a JAX array if `value` is one."""
    if xp.on_host(value):
        number: Any = np.asarray(value, like.dtype)
        return number
    return jnp.asarray(value).astype(jnp.result_type(like))


def elementwise(fn: Callable[[Array], ArrayLike], t: ArrayLike) -> Array:
    """Computes `fn(t)` in the shape and type of `t`: a user's function may be constant.

    Of concrete numbers in float64 also where the user wrote `fn` with `jax.numpy`.
    """
    given, t = t, floating(t)
    if xp.on_host(t, fn):
        value = in_float64(lambda t: fn(t), t)
        if not is_traced(value):
            numbers: Any = np.broadcast_to(np.asarray(value, np.float64), np.shape(t))
            return numbers[()]
    t = at_least_float32(given)  # a Python number takes the type of JAX's leaves
    return jnp.broadcast_to(jnp.asarray(fn(t), t.dtype), t.shape)


def derivative(fn: Callable[[Any, Array], Array], value: Any, t: ArrayLike) -> Array:
    """Computes `d fn(value, t) / dt`, elementwise in `t`, by forward-mode derivatives.

    Args:
      fn: `(value, t) -> array`.
      value: a pytree.
      t: any shape.

    Returns:
      Like `t`; computed by JAX, in float64 where all is concrete.
    """
    if xp.on_host(value, t):
        return in_float64(functools.partial(_jvp, fn), value, floating(t))
    return _jvp(fn, value, at_least_float32(t))


def _jvp(fn: Callable[[Any, Array], Array], value: Any, t: Array) -> Array:
    t = jnp.asarray(t)
    like_t = lambda t: jnp.broadcast_to(jnp.asarray(fn(value, t), t.dtype), t.shape)
    return jax.jvp(like_t, (t,), (jnp.ones_like(t),))[1]


def root(value: Array) -> Array:
    """Computes the square root, its derivative 0, not infinite, where `value` is 0."""
    positive = value > 0
    return xp.where(positive, xp.sqrt(xp.where(positive, value, 1)), 0)


def solve_falling(
    fn: Callable[[Array], Array],
    target: ArrayLike,
    low: float,
    high: float,
    slope_fn: Callable[[Array], Array] | None = None,
) -> Array:
    """Solves `fn(time) = target` for a falling function in [low, high], by bisection.

    A Newton step follows: it carries the derivatives, in the target and in what `fn`
    closes over, and continues `fn` in a straight line where the target is beyond a
    finite end.

    Args:
      fn: elementwise and strictly falling; it may be infinite at the ends.
      target: values, any shape.
      low: lower end.
      high: upper end.
      slope_fn: derivative of `fn`; None for forward-mode differentiation.

    Returns:
      An array of the shape of `target`; the end where both `fn` there and the target
      are infinite, and -inf or inf where only the target is.
    """
    target = floating(target)
    level = xp.stop_gradient(target)
    ends = xp.full_like(level, low), xp.full_like(level, high)
    if xp.on_host(level) and not xp.on_host(fn(ends[0])):  # `fn` has JAX's parameters
        return solve_falling(fn, jnp.asarray(target), low, high, slope_fn)

    def halve(bracket: tuple[Array, Array]) -> tuple[Array, Array]:
        below, above = bracket
        middle = (below + above) / 2
        early = xp.stop_gradient(fn(middle)) > level
        return xp.where(early, middle, below), xp.where(early, above, middle)

    digits = 2 * jnp.finfo(level.dtype).nmant  # relative precision near low = 0 too
    time = sum(xp.repeat(halve, digits, ends)) / 2
    time = xp.where(level <= fn(ends[1]), ends[1], time)
    time = xp.stop_gradient(xp.where(level >= fn(ends[0]), ends[0], time))
    value = fn(time)
    excess = value - target
    slope: Any
    if xp.on_host(excess) and not (np.isfinite(excess) & (np.abs(excess) > 1e-9)).any():
        slope = np.nan  # the bisection is exact, and nothing is to be differentiated
    elif slope_fn is not None:
        slope = slope_fn(time)
    else:
        slope = derivative(lambda _, t: fn(t), None, time)
    usable = xp.isfinite(excess) & xp.isfinite(slope) & (slope < 0)
    slope = xp.stop_gradient(xp.where(usable, slope, -1))
    beyond = xp.isinf(level) & xp.isfinite(value)
    return xp.where(beyond, -level, time - xp.where(usable, excess, 0) / slope)


def in_float64(fn: Callable[..., Any], *args: Any) -> Any:
    """Evaluates `fn(*args)` in NumPy float64, or as it is where an argument is traced.

    Functions that users wrote with `jax.numpy` are computed by JAX, in float64 too.

    Args:
      fn: a function of pytrees written with `_xp`; it must close over nothing that
        could be traced.
      *args: pytrees of numbers and arrays.

    Returns:
      NumPy float64 arrays computed on the CPU if no leaf of `args` is traced; else
      the traced result in the dtypes of `args`.
    """
    if is_traced(args):
        return fn(*args)
    quiet = np.errstate(all="ignore")
    with quiet, jax.ensure_compile_time_eval(), jax.enable_x64(True), _cpu():
        return jax.tree.map(_narrow, fn(*jax.tree.map(_widen, args)))


def _widen(leaf: Any) -> Any:
    if isinstance(leaf, (bool, int, float)) or not hasattr(leaf, "dtype"):
        return leaf  # objects that are no pytrees go as they are
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return leaf
    if jnp.issubdtype(leaf.dtype, jnp.floating):
        return np.asarray(leaf, np.float64)
    return np.asarray(leaf)


def _narrow(leaf: Any) -> Any:
    return leaf if isinstance(leaf, jax.core.Tracer) else np.asarray(leaf)[()]


def _cpu() -> Any:
    try:
        return jax.default_device(jax.local_devices(backend="cpu")[0])
    except RuntimeError:  # JAX_PLATFORMS names an accelerator alone
        return contextlib.nullcontext()


GRID = np.linspace(0.0, 1.0, 257)


def check_on_grid(check: Callable[..., None], *fns: Any) -> None:
    """Evaluates callables on `GRID`, in float64 and float32, and checks the values.

    Pytrees are rebuilt with leaves that may be gradients, so only functions whose
    leaves are numbers are checked.

    Args:
      check: raises a `ValueError` if the values are invalid.
      *fns: callables of a time, elementwise.
    """
    leaves, structure = jax.tree.flatten(fns)
    if all(is_number(leaf) for leaf in leaves):
        _checked(check, structure, tuple(leaves))


@functools.lru_cache(maxsize=256)
def _checked(check: Callable[..., None], structure: Any, leaves: tuple) -> None:
    fns = jax.tree.unflatten(structure, leaves)
    values = lambda t: [elementwise(fn, t) for fn in fns]
    try:
        with jax.numpy_dtype_promotion("standard"):  # a function may hold float32
            wide = in_float64(values, GRID)
            with jax.ensure_compile_time_eval(), _cpu():
                narrow = values(jnp.asarray(GRID, jnp.float32))
            wide, narrow = jax.tree.map(np.asarray, (wide, narrow))
    except TypeError:  # a function closes over a tracer, or None replaces a number
        return
    check(*wide)
    check(*narrow)


def check_falls(logsnr: np.ndarray) -> None:
    """Raises a `ValueError` unless a log-SNR falls from each time of `GRID` on."""
    stays = ~(logsnr[1:] < logsnr[:-1])
    if stays.any():
        place = int(np.argmax(stays))
        raise ValueError(
            f"the log-SNR goes from {logsnr[place]} at t={GRID[place]} to "
            f"{logsnr[place + 1]} at t={GRID[place + 1]}: it must fall; t = 0 is data "
            "and t = 1 is noise, for functions of the other direction write 1 - t"
        )
