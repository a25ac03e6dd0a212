"""Handles SIGTERM and Ctrl-C: raised at once, or noted until a step is finished."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any


class Stopped(BaseException):
    """Raised at SIGTERM or Ctrl-C; the command line prints what is kept, as one line.

    Like `KeyboardInterrupt` it is no `Exception`, so that what turns errors of others
    into its own (a reader of files, say) lets it through.

    Args:
      number: of the signal; the exit code is 128 more, as shells have it.
    """

    def __init__(self, number: int):
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.code = 128 + number
        self.kept = "nothing was written"


class Stop:
    """Records whether SIGTERM or Ctrl-C has come, for loops that finish a step first.

    Fields:
      number: of the signal, or None.
    """

    number: int | None = None

    def check(self) -> None:
        """Raises `Stopped` if one has come."""
        if self.number is not None:
            raise Stopped(self.number)


@contextlib.contextmanager
def stopping() -> Iterator[None]:
    """Raises `Stopped` at SIGTERM and Ctrl-C inside; a second one ends the process."""

    def stop(number: int) -> None:
        raise Stopped(number)

    with _handling(stop):
        yield


@contextlib.contextmanager
def noting() -> Iterator[Stop]:
    """Notes SIGTERM and Ctrl-C inside; a second one ends the process."""
    stop = Stop()
    with _handling(lambda number: setattr(stop, "number", number)):
        yield stop


@contextlib.contextmanager
def _handling(stop_fn: Callable[[int], None]) -> Iterator[None]:
    """Calls `stop_fn` at the first signal inside.

    Elsewhere than in the main thread, where Python takes no signals, it does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = {number: signal.getsignal(number) for number in numbers}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def handle(number: int, frame: Any) -> None:
        del frame
        restore()
        stop_fn(number)

    for number in numbers:
        signal.signal(number, handle)
    try:
        yield
    finally:
        restore()
