"""Denoisers: what samplers, guidance, likelihoods and solvers call.

A denoiser is `(z, t) -> Denoised(x, eps)`. `Denoiser` is the base class; functions are
wrapped once, by `as_denoiser`, which infers by an abstract trace what denoisers a
function calls: a `jax.jit` of a denoiser, a lambda around it or an object that holds it
keeps the checks of times, the finalizing of samples and, where it returns just what the
denoiser returns, the number of function evaluations (NFE).
"""

import contextlib
import contextvars
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from diffusionflow._dataclass import as_callable, is_traced, register
from diffusionflow._numeric import at_least_float32
from diffusionflow.schedules import Schedule, check_same_schedule


class Denoised(NamedTuple):
    """Data and noise estimates, `x_hat` and `eps_hat`, that a prediction implies.

    Fields:
      x: `[*batch, *event]`.
      eps: like `x`.
    """

    x: Array
    eps: Array


DenoiseFn = Callable[[Array, Array], Denoised]


class _Call(NamedTuple):
    denoiser: "Denoiser"
    z: Any
    t: Any
    result: Denoised


# calls of denoisers that are not made by another denoiser; None: not recording
_recorded: contextvars.ContextVar[list[_Call] | None] = contextvars.ContextVar(
    "recorded", default=None
)
_inside: contextvars.ContextVar[bool] = contextvars.ContextVar("inside", default=False)


@contextlib.contextmanager
def _set(variable: contextvars.ContextVar, value: Any) -> Iterator[None]:
    token = variable.set(value)
    try:
        yield
    finally:
        variable.reset(token)


class Denoiser:
    """Base class of denoisers: subclasses give `denoise(z, t) -> Denoised`.

    Calling one checks `z` and `t` and calls `denoise`. The other methods have defaults,
    which pass on to the denoisers among the fields; override what differs.

    Register subclasses with `diffusionflow.register`, so that they can be passed to
    jitted functions.

    Example:
      >>> import diffusionflow
      >>> from diffusionflow import predictions, schedules
      >>> @diffusionflow.register
      ... class Averaged(predictions.Denoiser):
      ...     '''The mean of two denoisers of one schedule.'''
      ...     first: predictions.Denoiser
      ...     second: predictions.Denoiser
      ...
      ...     def denoise(self, z, t):
      ...         pair = self.first(z, t), self.second(z, t)
      ...         return jax.tree.map(lambda a, b: (a + b) / 2, *pair)
      ...
      ...     def num_network_calls(self, t):
      ...         return self.first.num_network_calls(t) + (
      ...             self.second.num_network_calls(t)
      ...         )
      >>> flow = schedules.FlowMatching()
      >>> one = predictions.denoiser(lambda z, t: -z, kind="u", schedule=flow)
      >>> Averaged(one, one).num_network_calls(0.5)
      2
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "__hash__" not in vars(cls):
            cls.__hash__ = _hash

    def denoise(self, z: Array, t: Array) -> Denoised:
        """Estimates the data and the noise, `x_hat` and `eps_hat`.

        Args:
          z: noised data, `[*batch, *event]`.
          t: times in [0, 1], scalar or `[*batch]`.
        """
        raise NotImplementedError(f"{type(self).__name__} must define denoise(z, t)")

    def __call__(self, z: Array, t: ArrayLike) -> Denoised:
        """Calls `denoise(z, t)` and checks both arguments and the result."""
        given, nested = (z, t), _inside.get()
        z, t = as_input(z, t)
        if not is_traced(given[1]):
            self.check_times(given[1])
        with _set(_inside, True):
            result = as_denoised(self.denoise(z, t), z)
        calls = _recorded.get()
        if calls is not None and not nested:
            calls.append(_Call(self, *given, result))
        return result

    def parts(self) -> list["Denoiser"]:
        """Denoisers among the fields."""
        values = getattr(self, "__dict__", {}).values()
        return [value for value in values if isinstance(value, Denoiser)]

    def num_network_calls(self, t: ArrayLike) -> int | Array | None:
        """NFE (number of function evaluations) of one call at time `t`.

        Network calls, counted once for a batch. A Python number where it does not
        depend on the time; None, the default, where it is not known.
        """
        del t
        return None

    def check_times(self, t: ArrayLike) -> None:
        """Raises a `ValueError` where the denoiser cannot be evaluated at `t`.

        Args:
          t: times, any shape. Traced ones cannot be checked and pass.
        """
        for part in self.parts():
            part.check_times(t)

    def finalize(self, x: Array) -> Array:
        """Enforces known constraints of the data on samples; by default none.

        Samplers call it once, on the last result.
        """
        for part in self.parts():
            x = part.finalize(x)
        return x

    def own_schedule(self) -> Schedule | None:
        """Schedule that the denoiser belongs to; None if it is not known."""
        inner = [part.own_schedule() for part in self.parts()]
        return next((schedule for schedule in inner if schedule is not None), None)


def _hash(denoiser: Denoiser) -> int:
    """By the fields, or by identity where they are arrays: `jax.jit(denoiser)`."""
    try:
        return hash(tuple(vars(denoiser).values()))
    except TypeError:
        return object.__hash__(denoiser)


@register
class FunctionDenoiser(Denoiser):
    """Wraps a function `(z, t) -> Denoised` as a denoiser; see `as_denoiser`.

    Args:
      fn: the function.
      calls: NFE of one evaluation; None if it is not known.
      inner: what the function passes on to, from an abstract trace; None before it.
    """

    fn: Any
    calls: Any = None
    inner: Any = None

    def denoise(self, z: Array, t: Array) -> Denoised:
        return as_denoised(self.fn(z, t), z)

    def parts(self) -> list[Denoiser]:
        return [] if self.inner is None else list(self.inner.evaluated)

    def num_network_calls(self, t: ArrayLike) -> int | Array | None:
        if self.calls is None and self.inner and self.inner.returned is not None:
            return self.inner.returned.num_network_calls(t)
        return self.calls

    def finalize(self, x: Array) -> Array:
        for part in [] if self.inner is None else self.inner.all:
            x = part.finalize(x)
        return x


class _Inner(NamedTuple):
    """The denoisers that a function calls.

    Fields:
      all: each one.
      evaluated: those that it calls at its own z and t.
      returned: the one whose result at its own z and t it returns, if it calls no
        other.
    """

    all: tuple[Denoiser, ...] = ()
    evaluated: tuple[Denoiser, ...] = ()
    returned: Denoiser | None = None


def as_denoiser(
    denoise_fn: DenoiseFn,
    *,
    like: Array | None = None,
    schedule: Schedule | None = None,
    num_network_calls: int | None = None,
) -> Denoiser:
    """Wraps a function as a denoiser, and checks the schedule of a denoiser.

    Args:
      denoise_fn: a `Denoiser`, or a function `(z, t) -> Denoised`.
      like: an array like the z that it will be called with. Functions are then traced
        abstractly, once, for the denoisers that they call.
      schedule: the one that it is used on.
      num_network_calls: NFE of one evaluation of a function. None to infer it: that of
        the denoiser whose result it returns unchanged, else None, not known.

    Returns:
      `denoise_fn` itself if it is a `Denoiser`.

    Raises:
      ValueError: it is no function, it returns something else than `Denoised`, or it
        belongs to another schedule than `schedule`.

    Example:
      >>> from diffusionflow import predictions, schedules
      >>> flow = schedules.FlowMatching()
      >>> denoise_fn = predictions.denoiser(lambda z, t: -z, kind="u", schedule=flow)
      >>> around = as_denoiser(lambda z, t: denoise_fn(z, t), like=jnp.ones((4, 2)))
      >>> around.num_network_calls(0.5)
      1
    """
    if not isinstance(denoise_fn, Denoiser):
        if isinstance(denoise_fn, type) or not callable(denoise_fn):
            raise ValueError(
                f"denoise_fn={denoise_fn!r}: must be a denoiser, such as "
                "predictions.denoiser(predict_fn, kind=..., schedule=...), or a "
                "function (z, t) -> Denoised"
            )
        denoise_fn = FunctionDenoiser(as_callable(denoise_fn), num_network_calls)
    if like is not None:
        like = at_least_float32(like) if not hasattr(like, "dtype") else like
        denoise_fn = _looked_into(denoise_fn, like)
    own = denoise_fn.own_schedule()
    if schedule is not None and own is not None:
        check_same_schedule(own, schedule)
    return denoise_fn


def _looked_into(denoiser: Denoiser, like: Array) -> Denoiser:
    """Infers `inner` of every function in a denoiser."""
    is_function = lambda node: isinstance(node, FunctionDenoiser)
    find = lambda node: _found(node, like) if is_function(node) else node
    return jax.tree.map(find, denoiser, is_leaf=is_function)


def _found(denoiser: FunctionDenoiser, like: Array) -> FunctionDenoiser:
    """Infers `inner` of a function by an abstract trace without jit.

    The cache of jit would hide calls. What cannot be traced this way is not known.
    """
    if denoiser.inner is not None:
        return denoiser
    calls: list[_Call] = []
    at_own: list[bool] = []
    returned = False

    def trace(z: Array, t: Array) -> Any:
        nonlocal returned
        with jax.disable_jit(), jax.ensure_compile_time_eval():
            result = denoiser.fn(z, t)
        at_own.extend(call.z is z and call.t is t for call in calls)
        if at_own == [True] and isinstance(result, Denoised):
            pairs = zip(result, calls[0].result, strict=True)
            returned = all(a is b for a, b in pairs)
        return result

    dtype = jax.eval_shape(at_least_float32, like).dtype
    z, t = jax.ShapeDtypeStruct(like.shape, dtype), jax.ShapeDtypeStruct((), dtype)
    try:
        with _set(_recorded, calls), _set(_inside, False):
            result = jax.eval_shape(trace, z, t)
    except Exception:  # whatever is wrong is raised where the function is really called
        return denoiser
    as_denoised(result, z)
    found = [
        _looked_into(call.denoiser, jax.ShapeDtypeStruct(call.result.x.shape, dtype))
        for call in calls
    ]
    evaluated = [part for part, own in zip(found, at_own, strict=True) if own]
    inner = _Inner(tuple(found), tuple(evaluated), found[0] if returned else None)
    return FunctionDenoiser(denoiser.fn, denoiser.calls, inner)


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
    rounding = 4 * float(jnp.finfo(jnp.float32).eps)
    check_unit_interval("t", t, rounding)
    if not is_traced(t):
        return z, at_least_float32(t)
    t = at_least_float32(t)
    return z, jnp.where((t >= -rounding) & (t <= 1 + rounding), t, jnp.nan)


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
    dtype = jnp.result_type(value)
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


def as_denoised(result: Any, z: Array) -> Denoised:
    """Checks that `result` is `Denoised` of the shape of `z`, and returns it.

    Raises:
      ValueError: it is not.
    """
    if not isinstance(result, Denoised):
        what = _describe(result)
        raise ValueError(
            f"denoise_fn returned {what} in place of Denoised(x, eps): wrap a network "
            "by predictions.denoiser(predict_fn, kind=..., schedule=...)"
        )
    for name, part in zip(Denoised._fields, result, strict=True):
        _check_like(f"{name} of Denoised", part, z)
    return result


def as_prediction(value: Any, z: Array) -> Array:
    """Checks that a prediction is a floating array of the shape of `z`; returns it.

    Args:
      value: what the network returned.
      z: noised data, `[*batch, *event]`.

    Raises:
      ValueError: it is not.
    """
    if isinstance(value, Denoised):
        raise ValueError(
            "predict_fn returned Denoised(x, eps): it is a denoiser already; pass the "
            "network itself, or use it where a denoise_fn is wanted"
        )
    _check_like("predict_fn's result", value, z)
    return value


def _check_like(name: str, value: Any, z: Array) -> None:
    if not hasattr(value, "dtype") or not hasattr(value, "shape"):
        raise ValueError(
            f"{name} is {_describe(value)}: must be one array of the shape "
            f"{z.shape} of z; return the prediction alone"
        )
    if value.shape != z.shape:
        raise ValueError(
            f"{name} has shape {value.shape}: must be {z.shape}, that of z; reshape "
            "it in the function"
        )
    check_float(name, value, "a prediction is a real number")


def _describe(value: Any) -> str:
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"an array of shape {value.shape}"
    return f"a {type(value).__name__}"
