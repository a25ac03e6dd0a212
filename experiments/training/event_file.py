"""Writes scalars for TensorBoard, in the calling thread.

The writer of tensorboardX hands them to a thread of its own through a bounded queue:
where that thread has ended, on a full disk, the queue blocks the run for ever.
"""

import os
import pathlib
import socket
import sys
import time
from collections.abc import Mapping
from typing import Any

VERSION = "brain.Event:2"


def _tensorboard() -> tuple[Any, Any]:
    """Imports `RecordWriter` and the protocol of tensorboardX, torch left out.

    It imports torch where that is installed, which takes seconds, and needs nothing of
    it for scalars.
    """
    absent = "torch" not in sys.modules
    if absent:
        sys.modules["torch"] = None
    try:
        from tensorboardX import RecordWriter
        from tensorboardX.proto import event_pb2
    finally:
        if absent:
            del sys.modules["torch"]
    return RecordWriter, event_pb2


class EventFile:
    """An event file of a start of a run.

    Args:
      folder: where the files of all starts are.
      step: restored; TensorBoard hides later ones of earlier starts.

    Raises:
      OSError: it cannot be written, here and in `write`.
    """

    def __init__(self, folder: pathlib.Path, step: int):
        make, self._protocol = _tensorboard()
        folder.mkdir(parents=True, exist_ok=True)
        now = time.time_ns()
        begun = f"{now // 10**9}.{socket.gethostname()}.{os.getpid()}.{now % 10**9}"
        self._records = make(str(folder / f"events.out.tfevents.{begun}"))
        start = self._protocol.SessionLog(status=self._protocol.SessionLog.START)
        self._add(file_version=VERSION)
        self._add(step=step + 1, session_log=start)
        self._records.flush()

    def _add(self, **fields: Any) -> None:
        event = self._protocol.Event(wall_time=time.time(), **fields)
        self._records.write(event.SerializeToString())

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Adds finite numbers by name and puts them on disk."""
        values = [
            dict(tag=name, simple_value=float(value)) for name, value in scalars.items()
        ]
        if values:
            self._add(step=step, summary=dict(value=values))
            self._records.flush()

    def close(self) -> None:
        """Closes the file."""
        self._records.close()
