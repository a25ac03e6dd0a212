"""Counts the programs that JAX compiles."""

import contextlib
from collections.abc import Iterator

import jax

_EVENT = "/jax/core/compile/backend_compile_duration"


class Programs:
    """How many programs were compiled, loaded from the cache on disk among them."""

    compiled = 0


_counters: list[Programs] = []


def _note(event: str, duration: float, **kwargs: object) -> None:
    if event == _EVENT:
        for counter in _counters:
            counter.compiled += 1


jax.monitoring.register_event_duration_secs_listener(_note)


@contextlib.contextmanager
def counted() -> Iterator[Programs]:
    """Counts inside the `with` block."""
    counter = Programs()
    _counters.append(counter)
    try:
        yield counter
    finally:
        _counters.remove(counter)
