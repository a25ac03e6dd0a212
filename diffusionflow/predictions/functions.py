"""Functions as denoisers.

Functions are wrapped once, by `as_denoiser`, which infers by an abstract trace what
denoisers a function calls: a `jax.jit` of a denoiser, a lambda around it or an object
that holds it keeps the checks of times, the finalizing of samples and, where it returns
just what the denoiser returns, the number of function evaluations (NFE).
"""

import itertools
from typing import Any, NamedTuple

import jax
from jax import Array
from jax.extend.core import Var
from jax.typing import ArrayLike

from diffusionflow._dataclass import as_callable, register
from diffusionflow._numeric import at_least_float32
from diffusionflow.predictions.denoisers import (
    Call,
    Denoised,
    DenoiseFn,
    Denoiser,
    as_denoised,
    inside,
    recorded,
    temporarily,
)
from diffusionflow.schedules import Schedule, check_same_schedule


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
      >>> import jax.numpy as jnp
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
    calls: list[Call] = []
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
        return result, [_tracers(call.denoiser) for call in calls]

    dtype = jax.eval_shape(at_least_float32, like).dtype
    z, t = jax.ShapeDtypeStruct(like.shape, dtype), jax.ShapeDtypeStruct((), dtype)
    try:
        with temporarily(recorded, calls), temporarily(inside, False):
            closed, (result, _) = jax.make_jaxpr(trace, return_shape=True)(z, t)
    except Exception:  # whatever is wrong is raised where the function is really called
        return denoiser
    as_denoised(result, z)
    inner_numbers = _made_inside(calls, closed)
    everything, evaluated = [], []
    for call, own in zip(calls, at_own, strict=True):
        shape = jax.ShapeDtypeStruct(call.result.x.shape, dtype)
        parts = _usable_parts(call.denoiser, inner_numbers)
        parts = [_looked_into(part, shape) for part in parts]
        everything += parts
        evaluated += parts if own else []
    same = returned and _is_usable(calls[0].denoiser, inner_numbers)
    inner = _Inner(tuple(everything), tuple(evaluated), everything[0] if same else None)
    return FunctionDenoiser(denoiser.fn, denoiser.calls, inner)


def _tracers(denoiser: Denoiser) -> list[Any]:
    leaves = jax.tree.leaves(denoiser)
    return [leaf for leaf in leaves if isinstance(leaf, jax.core.Tracer)]


def _made_inside(calls: list[Call], closed: Any) -> set[int]:
    """Identities of the numbers that a function made while it was traced.

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
    """Whether a denoiser exists outside the function that calls it."""
    return not any(id(leaf) in inner_numbers for leaf in _tracers(denoiser))


def _usable_parts(denoiser: Denoiser, inner_numbers: set[int]) -> list[Denoiser]:
    """A denoiser, or its parts where a function makes it from its own z or t.

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
