"""Registered dataclasses: how schedules, samplers and objectives are values.

Fields are pytree leaves, so changing, vmapping or learning one costs no retrace;
fields made with `static()` (strings, ints, bools) are part of the program.
"""

import dataclasses
import difflib
import inspect
from collections.abc import Iterable
from typing import Any, TypeVar, dataclass_transform

import jax
import numpy as np

from diffusionflow import _xp as xp

Class = TypeVar("Class", bound=type)


def static(**kwargs: Any) -> Any:
    """Declares a field of a registered class that is structure, not data.

    For strings, ints, bools and functions that are not pytrees: another value compiles
    another program.

    Args:
      **kwargs: of `dataclasses.field`, such as `default`.
    """
    return dataclasses.field(metadata=dict(static=True), **kwargs)


@dataclass_transform(frozen_default=True, field_specifiers=(static,))
def register(cls: Class) -> Class:
    """Makes a class a frozen dataclass and a pytree: a schedule, sampler or denoiser.

    Fields are leaves of the pytree: numbers and arrays that may change, be vmapped or
    be learned without another compilation. Those declared by `static()` are part of the
    program.

    Args:
      cls: a class with annotated fields.

    Returns:
      The class, frozen and registered; its `repr` is one line.

    Example:
      >>> import diffusionflow
      >>> @diffusionflow.register
      ... class Steps:
      ...     scale: float = 1.0
      ...     order: int = diffusionflow.static(default=2)
      >>> Steps(scale=0.5), jax.tree.leaves(Steps())
      (Steps(scale=0.5, order=2), [1.0])
    """
    # not jax.tree_util.register_dataclass: with it the structures of two types compare
    # equal in jaxlib 0.10.2, and `jit` now and then runs the program of the other type
    own_repr = "__repr__" in vars(cls)
    made: Any = dataclasses.dataclass(frozen=True, repr=False)(cls)
    if not own_repr:
        made.__repr__ = _one_line
    names: dict[bool, list[str]] = {True: [], False: []}
    for field in dataclasses.fields(made):
        names[field.metadata.get("static", False)].append(field.name)
    leaves, structure = names[False], names[True]

    def flatten(value: Any) -> tuple[tuple, tuple]:
        part = lambda names: tuple(getattr(value, name) for name in names)
        return part(leaves), part(structure)

    def flatten_with_keys(value: Any) -> tuple[tuple, tuple]:
        children, fixed = flatten(value)
        keys = map(jax.tree_util.GetAttrKey, leaves)
        return tuple(zip(keys, children, strict=True)), fixed

    def unflatten(fixed: tuple, children: Iterable[Any]) -> Any:
        named = zip(leaves + structure, (*children, *fixed), strict=True)
        return made(**dict(named))

    jax.tree_util.register_pytree_with_keys(made, flatten_with_keys, unflatten, flatten)
    return made


def _one_line(value: Any) -> str:
    fields = (
        f"{field.name}={_short(getattr(value, field.name, None))}"
        for field in dataclasses.fields(value)
    )
    return f"{type(value).__name__}({', '.join(fields)})"


def _short(value: Any) -> str:
    """Describes a field in one line: arrays of over six numbers by type and shape."""
    if isinstance(value, jax.tree_util.Partial):
        inner = ", ".join(map(_short, (*value.args, *value.keywords.values())))
        name = getattr(value.func, "__qualname__", repr(value.func))
        return f"{name}({inner})" if inner else name
    if isinstance(value, jax.core.Tracer) or np.size(getattr(value, "shape", ())) > 1:
        return f"{value.dtype}{list(value.shape)}"
    if hasattr(value, "dtype") and hasattr(value, "shape"):
        if np.prod(value.shape, dtype=int) > 6:
            return f"{value.dtype}{list(value.shape)}"
        return repr(np.asarray(value).tolist())
    if inspect.isfunction(value):
        return value.__qualname__
    if isinstance(value, dict | list) or type(value) is tuple:
        arrays = sum(hasattr(leaf, "shape") for leaf in jax.tree.leaves(value))
        if arrays:
            return f"{type(value).__name__} of {arrays} arrays"
    return " ".join(repr(value).split())


class QuietMethods:
    """Base class of values whose methods may return infinite numbers by design.

    The methods of subclasses run without NumPy's warnings about these.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name, method in vars(cls).copy().items():
            if inspect.isfunction(method) and name != "__init__":
                setattr(cls, name, xp.quiet(method))


def check_bound(
    name: str, value: Any, holds: Any, bound: str, way_out: str = ""
) -> None:
    """Raises a `ValueError` naming `value` and `bound` where `holds(value)` is False.

    Only Python and NumPy scalars are compared: pytrees are rebuilt around tracers in
    `jit`, and around arrays that may be gradients.
    """
    if isinstance(value, str) or (is_number(value) and not holds(value)):
        hint = f"; {way_out}" if way_out else ""
        raise ValueError(f"{name}={value!r}: must be {bound}{hint}")


def check_instance(name: str, value: Any, example: str) -> None:
    """Raises a `ValueError` where a string, a class or a function is given as a value.

    Nothing else is refused: pytrees are rebuilt around placeholders of any type.

    Args:
      name: of the argument.
      value: what was given.
      example: of what is wanted, for the message.
    """
    if isinstance(value, type):
        raise ValueError(
            f"{name}={value.__name__}: must be an instance; write {value.__name__}(...)"
        )
    if isinstance(value, str) or inspect.isroutine(value):
        shown = repr(value) if isinstance(value, str) else value.__name__
        raise ValueError(f"{name}={shown}: must be a value such as {example}")


def is_number(value: Any) -> bool:
    """Returns whether `value` is a Python or NumPy scalar: then bounds are checked."""
    return isinstance(value, (int, float, np.number))


def check_below(low_name: str, low: Any, high_name: str, high: Any) -> None:
    """Raises a `ValueError` naming both values where not `low < high`."""
    if isinstance(high, str):
        raise ValueError(f"{high_name}={high!r}: must be a number above {low_name}")
    if is_number(high):
        bound = f"below {high_name}={high!r}"
        check_bound(low_name, low, lambda low: low < high, bound)


def check_positive(name: str, value: Any, way_out: str = "") -> None:
    """Raises a `ValueError` where a number is not positive, or infinite."""
    inside = lambda value: 0 < value < float("inf")
    check_bound(name, value, inside, "positive and finite", way_out)


def check_count(name: str, value: Any, least: int = 1, most: int | None = None) -> None:
    """Raises a `ValueError` unless a number is whole and at least `least`.

    A float passes for a number of steps until a loop over it fails, or never ends.

    Args:
      name: of the number.
      value: what was given.
      least: lower bound.
      most: upper bound of what a program or a table can hold; None for none.
    """
    whole = isinstance(value, (int, np.integer))
    inside = lambda value: whole and least <= value and (most is None or value <= most)
    upper = "" if most is None else f" and at most {most:,}"
    check_bound(name, value, inside, f"at least {least}{upper}, a whole number")


def check_order(name: str, value: Any, least: int, most: int) -> None:
    """Raises a `ValueError` unless a number is one of `least, ..., most`.

    Args:
      name: of the number.
      value: what was given.
      least: lowest that is accepted.
      most: highest that is accepted.
    """
    numbers = [*map(str, range(least, most))]
    words = f"{', '.join(numbers)} or {most}" if numbers else f"{most}"
    whole = isinstance(value, (int, np.integer))
    inside = lambda value: whole and least <= value <= most
    check_bound(name, value, inside, f"{words}, a whole number")


def check_batch_ndim(batch_ndim: Any, ndim: int) -> None:
    """Raises a `ValueError` unless an array has so many axes of the batch.

    Args:
      batch_ndim: what was given.
      ndim: axes of the array.
    """
    check_order("batch_ndim", batch_ndim, 0, ndim)


def check_not_negative(name: str, value: Any) -> None:
    """Raises a `ValueError` where a number is negative, infinite or NaN."""
    inside = lambda value: 0 <= value < float("inf")
    check_bound(name, value, inside, "at least 0 and finite")


def check_finite(name: str, value: Any) -> None:
    """Raises a `ValueError` where a number is infinite or NaN."""
    check_bound(name, value, is_finite, "finite")


def is_finite(value: Any) -> bool:
    """Returns whether a number is neither infinite nor NaN."""
    return abs(value) < float("inf")


def check_name(what: str, name: str, known: Iterable[str]) -> None:
    """Raises a `ValueError` with the nearest known name where `name` is not `known`."""
    known = tuple(known)
    if name not in known:
        nearest = difflib.get_close_matches(str(name), known, n=1)
        hint = f"did you mean {nearest[0]!r}? " if nearest else ""
        raise ValueError(f"unknown {what} {name!r}: {hint}known: {', '.join(known)}")


def as_callable(fn: Any) -> Any:
    """Makes `fn` a pytree: itself, or in a `Partial` without leaves."""
    return jax.tree_util.Partial(fn) if jax.tree_util.all_leaves([fn]) else fn


def is_traced(*trees: Any) -> bool:
    """Returns whether a leaf of `trees` is a tracer."""
    return any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(trees))
