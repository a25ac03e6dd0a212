"""Imports a command's modules and keeps them out of garbage collection."""

import contextlib
import gc
from collections.abc import Iterator

from experiments.runtime import progress


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """Announces imports that take long, and leaves them out of garbage collection.

    Little of them is garbage; what there is stays until the process ends. Collections
    inside, and those of all objects later, would take more than a tenth of the time of
    a short command.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        with progress.announced("importing", after=1.0):
            yield
    finally:
        if enabled:
            gc.enable()
    gc.freeze()
