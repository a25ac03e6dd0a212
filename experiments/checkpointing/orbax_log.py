"""Drops what Orbax logs of errors that it raises as well."""

import contextlib
import threading
import warnings
from collections.abc import Iterator
from typing import Any

from absl import logging


class Filter:
    """Filter of the log that drops what Orbax logs while it saves.

    Threads of a save log what `wait` raises as well, whenever that comes. After an
    error some may outlive the context: of these alone it is dropped then. Where one
    never ends, as of a pool of Orbax, the filter stays, and drops what that one logs.
    """

    def __init__(self) -> None:
        self._older = set(threading.enumerate())
        self._threads: set[threading.Thread] | None = None  # None for all

    def filter(self, record: Any) -> bool:
        """Returns whether a record is shown; called in the thread that logs it."""
        if "orbax" not in record.pathname:
            return True
        threads = self._threads
        return threads is not None and threading.current_thread() not in threads

    def add(self) -> None:
        """Begins to drop records; again, it changes nothing."""
        logging.get_absl_logger().addFilter(self)

    def remove(self) -> None:
        """Shows all records again."""
        logging.get_absl_logger().removeFilter(self)

    def keep_to_running_threads(self) -> None:
        """Drops those of threads that are younger than this filter and still run."""
        self._threads = set(threading.enumerate()) - self._older
        self.remove_ended()

    @classmethod
    def remove_ended(cls) -> None:
        """Removes those of failed saves of which all threads have ended."""
        logger = logging.get_absl_logger()
        for each in [each for each in logger.filters if isinstance(each, cls)]:
            threads = each._threads
            if threads is not None and not any(one.is_alive() for one in threads):
                each.remove()


def ignore_abandoned_writes() -> None:
    """Suppresses Python's warning that a failed save has not written all arrays.

    It is given whenever the memory of the save is freed, which may be at the exit.
    """
    warnings.filterwarnings(
        "ignore", r"coroutine '.*serialize.*' was never awaited", RuntimeWarning
    )


@contextlib.contextmanager
def quiet(level: int) -> Iterator[None]:
    """Suppresses log messages of Orbax below a level.

    It warns that a read-only directory is read only, and prints the traceback of an
    error that it raises as well.
    """
    verbosity = logging.get_verbosity()
    logging.set_verbosity(level)
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
