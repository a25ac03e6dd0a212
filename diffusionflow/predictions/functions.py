"""Functions as denoisers.

Functions are wrapped once, by `as_denoiser`, which infers by an abstract trace what
denoisers a function calls: a `jax.jit` of a denoiser, a lambda around it or an object
that holds it keeps the checks of times, the finalizing of samples and, where it returns
just what the denoiser returns, the number of function evaluations (NFE).
"""

import functools
import itertools
from typing import Any, NamedTuple

import jax
from jax import Array
from jax.extend.core import Var
from jax.typing import ArrayLike

from diffusionflow._dataclass import as_callable, check_count, register, static
from diffusionflow._numeric import at_least_float32
from diffusionflow.predictions.denoisers import (
    Call,
    Denoised,
    DenoiseFn,
    Denoiser,
    as_denoised,
    finalized,
    inside,
    recorded,
    temporarily,
)
from diffusionflow.schedules import Schedule


@register
class FunctionDenoiser(Denoiser):
    """Wraps a function `(z, t) -> Denoised` as a denoiser; see `as_denoiser`.

    Args:
      fn: the function.
      calls: NFE of one evaluation; None if it is not known.
      inner: what the function passes on to, from an abstract trace; None before it.
    """

    fn: Any
    calls: int | None = static(default=None)
    inner: Any = None

    def denoise(self, z: Array, t: Array) -> Denoised:
        return as_denoised(self.fn(z, t), z)

    def denoise_toward(self, z: Array, t: Array, s: Array) -> Denoised:
        returned = None if self.inner is None else self.inner.returned
        if returned is not None and returned.has_second_time():
            return returned.denoise_toward(z, t, s)
        return super().denoise_toward(z, t, s)

    def parts(self) -> list[Denoiser]:
        return [] if self.inner is None else list(self.inner.evaluated)

    def check_times(self, t: ArrayLike) -> None:
        for part in () if self.inner is None else self.inner.at_own_time:
            part.check_times(t)

    def num_network_calls(self, t: ArrayLike) -> int | Array | None:
        if self.calls is None and self.inner and self.inner.returned is not None:
            return self.inner.returned.num_network_calls(t)
        return self.calls

    def finalize(self, x: Array) -> Array:
        return finalized(x, () if self.inner is None else self.inner.on_samples)


class _Inner(NamedTuple):
    """The denoisers that a function calls.

    Fields:
      on_samples: those that it calls on arrays of the shape of its own z.
      at_own_time: those that it calls at its own t.
      evaluated: those that it calls at its own z and t.
      returned: the one whose result at its own z and t it returns, if it calls no
        other.
    """

    on_samples: tuple[Denoiser, ...] = ()
    at_own_time: tuple[Denoiser, ...] = ()
    evaluated: tuple[Denoiser, ...] = ()
    returned: Denoiser | None = None


def as_denoiser(
    denoise_fn: DenoiseFn,
    *,
    like: Array | jax.ShapeDtypeStruct | None = None,
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
      >>> import jax.numpy as jnp
      >>> from diffusionflow import predictions, schedules
      >>> flow = schedules.FlowMatching()
      >>> denoise_fn = predictions.denoiser(lambda z, t: -z, kind="u", schedule=flow)
      >>> around = as_denoiser(lambda z, t: denoise_fn(z, t), like=jnp.ones((4, 2)))
      >>> around.num_network_calls(0.5)
      1
    """
    if num_network_calls is not None:
        count = num_network_calls
        check_count("num_network_calls", count)
        if isinstance(denoise_fn, Denoiser):
            raise ValueError(
                f"num_network_calls={count}: {type(denoise_fn).__name__} counts its "
                "own calls; override its num_network_calls(t)"
            )
    if not isinstance(denoise_fn, Denoiser):
        if isinstance(denoise_fn, type) or not callable(denoise_fn):
            raise ValueError(
                f"denoise_fn={denoise_fn!r}: must be a denoiser, such as "
                "predictions.denoiser(predict_fn, kind=..., schedule=...), or a "
                "function (z, t) -> Denoised"
            )
        denoise_fn = FunctionDenoiser(as_callable(denoise_fn), num_network_calls)
    if like is not None:
        example: Any = like
        example = example if hasattr(example, "dtype") else at_least_float32(example)
        denoise_fn = _infer_inner(denoise_fn, example)
    if schedule is not None:
        denoise_fn.check_schedule(schedule)
    return denoise_fn


def _infer_inner(denoiser: Denoiser, like: Array | jax.ShapeDtypeStruct) -> Denoiser:
    """Infers `inner` of every function in a denoiser."""
    is_function = lambda node: isinstance(node, FunctionDenoiser)
    infer = lambda node: _infer_function(node, like) if is_function(node) else node
    return jax.tree.map(infer, denoiser, is_leaf=is_function)


def _infer_function(
    denoiser: FunctionDenoiser, like: Array | jax.ShapeDtypeStruct
) -> FunctionDenoiser:
    """Infers `inner` of a function by an abstract trace without jit.

    The cache of jit would hide calls. What cannot be traced this way is not known.
    """
    if denoiser.inner is not None:
        return denoiser
    calls: list[Call] = []
    own_z: list[bool] = []
    own_t: list[bool] = []
    returned = False

    def trace(inline: bool, z: Array, t: Array) -> Any:
        nonlocal returned
        with jax.disable_jit(inline), jax.ensure_compile_time_eval():
            result = denoiser.fn(z, t)
        own_z.extend(call.z is z for call in calls)
        own_t.extend(call.t is t for call in calls)
        if own_z == own_t == [True] and isinstance(result, Denoised):
            pairs = zip(result, calls[0].result, strict=True)
            returned = all(a is b for a, b in pairs)
        return result, [_tracers(call.denoiser) for call in calls]

    dtype = jax.eval_shape(at_least_float32, like).dtype
    z, t = jax.ShapeDtypeStruct(like.shape, dtype), jax.ShapeDtypeStruct((), dtype)
    closed = None
    for inline in (True, False):  # not everything can be traced without jit
        for known in (calls, own_z, own_t):
            known.clear()
        try:
            with temporarily(recorded, calls), temporarily(inside, False):
                closed, (result, _) = jax.make_jaxpr(
                    functools.partial(trace, inline), return_shape=True
                )(z, t)
            break
        except Exception:  # is raised where the function is really called
            continue
    if closed is None:
        return denoiser
    as_denoised(result, z)
    return FunctionDenoiser(
        denoiser.fn,
        denoiser.calls,
        _inner(calls, own_z, own_t, returned, closed, z),
    )


def _inner(
    calls: list[Call],
    own_z: list[bool],
    own_t: list[bool],
    returned: bool,
    closed: Any,
    z: jax.ShapeDtypeStruct,
) -> _Inner:
    """Sorts the denoisers that a function calls; the arguments are of its trace."""
    inner_numbers = _made_inside(calls, closed)
    groups: dict[str, list[Denoiser]] = {name: [] for name in _Inner._fields[:3]}
    first: Denoiser | None = None
    for call, at_z, at_t in zip(calls, own_z, own_t, strict=True):
        shape = jax.ShapeDtypeStruct(call.result.x.shape, z.dtype)
        parts = _usable_parts(call.denoiser, inner_numbers)
        parts = [_infer_inner(part, shape) for part in parts]
        groups["on_samples"] += parts if shape.shape == z.shape else []
        groups["at_own_time"] += parts if at_t else []
        groups["evaluated"] += parts if at_z and at_t else []
        if returned and _is_usable(call.denoiser, inner_numbers):
            (first,) = parts
    on_samples, at_own_time, evaluated = map(tuple, groups.values())
    return _Inner(on_samples, at_own_time, evaluated, first)


def _tracers(denoiser: Denoiser) -> list[Any]:
    leaves = jax.tree.leaves(denoiser)
    return [leaf for leaf in leaves if isinstance(leaf, jax.core.Tracer)]


def _made_inside(calls: list[Call], closed: Any) -> set[int]:
    """Returns identities of the numbers that a function made while it was traced.

    `closed` returns the traced numbers of its denoisers last: those from outside are
    constants of it.
    """
    numbers = [leaf for call in calls for leaf in _tracers(call.denoiser)]
    outputs = closed.jaxpr.outvars[len(closed.jaxpr.outvars) - len(numbers) :]
    outside = set(closed.jaxpr.constvars)
    return {
        id(number)
        for number, variable in zip(numbers, outputs, strict=True)
        if isinstance(variable, Var) and variable not in outside
    }


def _is_usable(denoiser: Denoiser, inner_numbers: set[int]) -> bool:
    """Returns whether a denoiser exists outside the function that calls it."""
    return not any(id(leaf) in inner_numbers for leaf in _tracers(denoiser))


def _usable_parts(denoiser: Denoiser, inner_numbers: set[int]) -> list[Denoiser]:
    """Returns a denoiser, or its parts where a function makes it from its own z or t.

    Raises:
      ValueError: such a one has something to put into samples, which would be lost.
    """
    if _is_usable(denoiser, inner_numbers):
        return [denoiser]
    if type(denoiser).finalize is not Denoiser.finalize:
        raise ValueError(
            f"denoise_fn makes a {type(denoiser).__name__} from its own z or t: make "
            "it outside the function, or subclass predictions.Denoiser"
        )
    parts = (_usable_parts(part, inner_numbers) for part in denoiser.parts())
    return list(itertools.chain.from_iterable(parts))
