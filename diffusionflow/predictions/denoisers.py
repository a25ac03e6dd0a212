"""Denoisers: what samplers, guidance, likelihoods and solvers call.

A denoiser is `(z, t) -> Denoised(x, eps)`. `Denoiser` is the base class; functions are
wrapped by `functions.as_denoiser`.
"""

import contextlib
import contextvars
import operator
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import jax
from jax import Array
from jax.typing import ArrayLike

from diffusionflow._dataclass import is_traced
from diffusionflow.predictions.checks import as_input, check_result, describe
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


class Call(NamedTuple):
    """A call of a denoiser by something that is none."""

    denoiser: "Denoiser"
    z: Any
    t: Any
    result: Denoised


# calls of denoisers that are not made by another denoiser; None: not recording
recorded: contextvars.ContextVar[list[Call] | None] = contextvars.ContextVar(
    "recorded", default=None
)
inside: contextvars.ContextVar[bool] = contextvars.ContextVar("inside", default=False)


@contextlib.contextmanager
def temporarily(variable: contextvars.ContextVar, value: Any) -> Iterator[None]:
    """Sets a context variable inside the `with` block."""
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
            cls.__hash__ = _hash  # type: ignore[method-assign, assignment]

    def denoise(self, z: Array, t: Array) -> Denoised:
        """Estimates the data and the noise, `x_hat` and `eps_hat`.

        Args:
          z: noised data, `[*batch, *event]`.
          t: times in [0, 1], scalar or `[*batch]`.
        """
        raise NotImplementedError(f"{type(self).__name__} must define denoise(z, t)")

    def __call__(self, z: Array, t: ArrayLike) -> Denoised:
        """Calls `denoise(z, t)` and checks both arguments and the result."""
        given, nested = (z, t), inside.get()
        z, t = as_input(z, t)
        if not is_traced(given[1]):
            self.check_times(given[1])
        with temporarily(inside, True):
            result = as_denoised(self.denoise(z, t), z)
        calls = recorded.get()
        if calls is not None and not nested:
            calls.append(Call(self, *given, result))
        return result

    def denoise_toward(self, z: Array, t: Array, s: Array) -> Denoised:
        """Estimates the x and eps with which DDIM goes from `(z, t)` to the time `s`.

        `denoise(z, t)` whatever `s` is, the default; a flow map knows the very pair
        with which that one step is exact (`distillation.flow_map`).

        Args:
          z: noised data, `[*batch, *event]`.
          t: times in [0, 1], scalar or `[*batch]`.
          s: times to go to, like `t`.

        Raises:
          ValueError: this denoiser is made of flow maps and none itself.
        """
        del s
        if self.has_second_time():
            raise ValueError(
                f"{type(self).__name__} around a flow map changes what it predicts at "
                "one time, not its jumps: sample it as a denoiser, such as by "
                "samplers.ddim(), or train the flow map with guidance inside"
            )
        return self.denoise(z, t)

    def has_second_time(self) -> bool:
        """Returns whether its `denoise_toward`, or that of a part, depends on `s`."""
        return any(part.has_second_time() for part in self.parts())

    def parts(self) -> list["Denoiser"]:
        """Returns the denoisers among the fields."""
        is_part = lambda value: isinstance(value, Denoiser)
        fields = list(getattr(self, "__dict__", {}).values())
        return list(filter(is_part, jax.tree.leaves(fields, is_leaf=is_part)))

    def num_network_calls(self, t: ArrayLike) -> int | Array | None:
        """Counts the NFE (number of function evaluations) of one call at time `t`.

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
        return finalized(x, self.parts())

    def check_schedule(self, schedule: Schedule) -> None:
        """Raises a `ValueError` where the denoiser belongs to another schedule.

        By default its own is the field `schedule`, if there is one.
        """
        own = getattr(self, "schedule", None)
        if isinstance(own, Schedule):
            check_same_schedule(own, schedule)
        for part in self.parts():
            part.check_schedule(schedule)


def denoise_toward(
    denoise_fn: DenoiseFn, z: Array, t: ArrayLike, s: ArrayLike
) -> Denoised:
    """Calls `denoise_toward(z, t, s)` of a denoiser, and checks arguments and result.

    Args:
      denoise_fn: a denoiser; a function, which knows no second time, gets `(z, t)`.
      z: noised data, `[*batch, *event]`.
      t: times in [0, 1], scalar or `[*batch]`.
      s: times to go to, scalar or `[*batch]`.

    Returns:
      `Denoised`; with a flow map, `alpha_s x + sigma_s eps` is where it goes.

    Raises:
      ValueError: a time is outside [0, 1], the denoiser cannot be evaluated at `t`, it
        is made of flow maps and none itself, or its result is something else.
    """
    if not isinstance(denoise_fn, Denoiser):
        return getattr(denoise_fn, "denoise_toward", lambda z, t, s: denoise_fn(z, t))(
            z, t, s
        )
    if not is_traced(t):
        denoise_fn.check_times(t)
    (z, t), (_, s) = as_input(z, t), as_input(z, s)
    with temporarily(inside, True):
        return as_denoised(denoise_fn.denoise_toward(z, t, s), z)


def finalized(x: Array, parts: Iterable[Denoiser]) -> Array:
    """Samples finalized by several denoisers, by each of them once."""
    done: list[tuple[list[Any], Any]] = []
    for part in parts:
        leaves, structure = jax.tree.flatten(part)
        if not any(
            other == structure and all(map(operator.is_, leaves, others))
            for others, other in done
        ):
            done.append((leaves, structure))
            x = part.finalize(x)
    return x


def _hash(denoiser: Denoiser) -> int:
    """Hashes by the fields, or by identity if they are arrays: `jax.jit(denoiser)`."""
    try:
        return hash(tuple(vars(denoiser).values()))
    except TypeError:
        return object.__hash__(denoiser)


def as_denoised(result: Any, z: Array | jax.ShapeDtypeStruct) -> Denoised:
    """Checks that `result` is `Denoised` of the shape of `z`, and returns it.

    Raises:
      ValueError: it is not.
    """
    if not isinstance(result, Denoised):
        what = describe(result)
        raise ValueError(
            f"denoise_fn returned {what} in place of Denoised(x, eps): wrap a network "
            "by predictions.denoiser(predict_fn, kind=..., schedule=...)"
        )
    for name, part in zip(Denoised._fields, result, strict=True):
        check_result(f"{name} of Denoised", part, z)
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
    check_result("predict_fn's result", value, z)
    return value
