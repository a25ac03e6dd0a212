"""Ends a command: its errors in one line, and the exit code of each kind."""

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator
from logging import LogRecord, getLogger
from typing import Any, NoReturn

import jax

from experiments.runtime import distributed
from experiments.runtime.errors import (
    FULL,
    Diverged,
    PeerLost,
    SaveError,
    UsageError,
)
from experiments.runtime.signals import Stopped


@contextlib.contextmanager
def usage_errors() -> Iterator[None]:
    """Turns a `UsageError` inside into a message on standard error and exit code 2.

    Also `Stopped` into what was kept, with the exit code of the signal; `SaveError` and
    a full disk, `Diverged` and `PeerLost` into their message, with exit codes 1, 3 and
    4. One of several processes does not wait for ever for others that have no error.
    """
    try:
        yield
    except (UsageError, SaveError, Diverged) as error:
        _end(f"error: {error}", error.code)
    except OSError as error:
        if error.errno not in FULL:
            raise
        _end(f"error: {error}; free disk space or fix the disk", SaveError.code)
    except PeerLost as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        os._exit(error.code)  # the usual way out waits for all processes
    except Stopped as stopped:
        _end(f"{stopped}: {stopped.kept}", stopped.code)
    except KeyboardInterrupt:
        interrupted = Stopped(signal.SIGINT)
        _end(str(interrupted), interrupted.code)
    except Exception as error:
        if _is_out_of_memory(error):
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            way = (
                "reduce batch_size, or to train set optimizer.accumulate, network.remat"
            )
            _end(f"error: out of memory ({reason}): {way}", 1)
        distributed.leave(1)
        raise


def _is_out_of_memory(error: Exception) -> bool:
    of_device = isinstance(error, jax.errors.JaxRuntimeError)
    exhausted = of_device and str(error).startswith("RESOURCE_EXHAUSTED")
    return exhausted or isinstance(error, MemoryError)


def _end(message: str, code: int) -> NoReturn:
    print(message, file=sys.stderr, flush=True)
    distributed.leave(code)
    sys.exit(code)


@contextlib.contextmanager
def closed_pipe() -> Iterator[None]:
    """Ends quietly, as by SIGPIPE, where a reader such as `head` closed the output."""
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)


def hide_failed_writes() -> None:
    """Leaves out what threads report of a save whose failure is reported already."""
    sys.unraisablehook = _without_closed_loops(sys.unraisablehook)
    getLogger("asyncio").addFilter(_is_news)


def _without_closed_loops(hook: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Filters what unfinished writes report after a save that failed.

    TensorStore reports from its threads that the event loop of the save is gone.
    """

    def filtered(unraisable: Any) -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            hook(unraisable)

    return filtered


def _is_news(record: LogRecord) -> bool:
    """Drops messages of other writes of a save whose failure was reported already."""
    return "exception was never retrieved" not in record.getMessage()
