"""Counts the programs that JAX compiles."""

import contextlib
from collections.abc import Iterator

import jax

_EVENT = "/jax/core/compile/backend_compile_duration"


class Programs:
    """How many programs were compiled or loaded from the cache on disk."""

    compiled = 0


@contextlib.contextmanager
def counted() -> Iterator[Programs]:
    """Counts inside the `with` block."""
    programs = Programs()

    def note(event: str, duration: float, **kwargs: object) -> None:
        del duration, kwargs
        programs.compiled += event == _EVENT

    jax.monitoring.register_event_duration_secs_listener(note)
    try:
        yield programs
    finally:
        jax.monitoring.unregister_event_duration_listener(note)
