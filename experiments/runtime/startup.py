"""Imports what a command needs, without searching it for garbage ever after."""

import contextlib
import gc
from collections.abc import Iterator

from experiments.runtime import progress


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """Announces imports that take long, and leaves them out of garbage collection.

    Nothing of them is garbage until the process ends. Collections inside, and those of
    all objects later, would take more than a tenth of the time of a short command.
    """
    gc.disable()
    try:
        with progress.announced("importing", after=1.0):
            yield
    finally:
        gc.enable()
    gc.freeze()
