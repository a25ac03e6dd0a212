"""Registered dataclasses: the one way schedules, samplers and the rest are values.

Fields are pytree leaves, so changing, vmapping or learning one costs no retrace;
fields made with `static()` (strings, ints, bools) are part of the program.
"""

import dataclasses
from typing import Any, dataclass_transform

import jax


def static(**kwargs: Any) -> Any:
    """A dataclass field that is structure, not data."""
    return dataclasses.field(metadata=dict(static=True), **kwargs)


@dataclass_transform(frozen_default=True, field_specifiers=(static,))
def register(cls: type) -> type:
    """Makes `cls` a frozen dataclass and a pytree."""
    return jax.tree_util.register_dataclass(dataclasses.dataclass(frozen=True)(cls))


def check(ok: Any, message: str) -> None:
    """Raises `ValueError(message)` if `ok` is a Python bool and False.

    A comparison of a traced or batched field is no Python bool: it passes, because
    pytrees are rebuilt with tracers inside `jit`.
    """
    if isinstance(ok, bool) and not ok:
        raise ValueError(message)


def as_callable(fn: Any) -> Any:
    """`fn` if it is a pytree, else `fn` as a static leafless `Partial`."""
    return jax.tree_util.Partial(fn) if jax.tree_util.all_leaves([fn]) else fn


def is_traced(*trees: Any) -> bool:
    """Whether any leaf of `trees` is known only while tracing."""
    return any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(trees))
