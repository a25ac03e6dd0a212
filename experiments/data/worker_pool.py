"""Processes that read the batches of a run.

They are started afresh, not forked, since JAX has threads, and import nothing of the
program that started them: that would take seconds, and run a script twice. These are
the reasons against grain's own processes, which moreover go on for ever once the
process that started them is killed, and can wait for ever for one that was killed.
"""

import contextlib
import os
import pickle
import queue
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from typing import IO, Any

import cloudpickle

from experiments.data.base import Examples
from experiments.data.batch_worker import Failure, SharedMemory
from experiments.data.loader import Batches
from experiments.runtime.errors import PeerLost, UsageError

PATIENCE = 10.0  # seconds until a process that answers no more is ended
CODE = (
    "import sys; sys.path[:] = {path!r}; from experiments.data import batch_worker; "
    "batch_worker.main({descriptor})"
)


class WorkerPool:
    """The batches of a run by number, each read by one of several processes.

    They all end with `close`, and by themselves when this process ends.

    Args:
      batches: which depend on their number alone.
      count: of processes.

    Raises:
      UsageError: the data set cannot be sent to another process.
    """

    def __init__(self, batches: Batches, count: int):
        self._length = len(batches)
        try:
            content = cloudpickle.dumps(batches)
        except Exception as error:  # whatever a part that cannot be pickled raises
            raise UsageError(
                f"data.workers={count}: the data set cannot be sent to another process "
                f"({type(error).__name__}: {error}); set data.workers=0"
            ) from error
        self._workers = [_Worker(content) for _ in range(count)]
        self._idle: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
        for worker in self._workers:
            self._idle.put(worker)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, number: int) -> Examples:
        """Batch `number`; several threads may ask at once.

        Raises:
          UsageError: it cannot be read.
          PeerLost: its process has ended.
        """
        worker = self._idle.get()
        try:
            return worker.read(number)
        finally:
            self._idle.put(worker)

    def close(self) -> None:
        """Ends the processes; who waits for a batch gets a `PeerLost`."""
        for worker in self._workers:
            worker.close()


class _Worker:
    """A process that reads batches.

    Args:
      content: the pickle of what is indexed.
    """

    def __init__(self, content: bytes):
        self._content: bytes | None = content
        self._file = _memory_file()
        self._memory = SharedMemory(self._file.fileno())
        code = CODE.format(path=sys.path, descriptor=self._file.fileno())
        with _signals_blocked():
            self._process = subprocess.Popen(
                [sys.executable, "-c", code],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                pass_fds=[self._file.fileno()],
                env=os.environ | {"JAX_PLATFORMS": "cpu"},  # if a data set imports it
            )

    def read(self, number: int) -> Examples:
        """Batch `number`."""
        requests, answers = self._process.stdin, self._process.stdout
        assert requests is not None and answers is not None
        try:
            if self._content is not None:
                pickle.dump(self._content, requests)
                self._content = None
            pickle.dump(number, requests)
            requests.flush()
            answer = pickle.load(answers)
        except (EOFError, OSError, ValueError, pickle.UnpicklingError) as error:
            raise PeerLost(self._end(number)) from error
        if isinstance(answer, Failure):
            raise UsageError(answer.reason)
        return pickle.loads(answer.content, buffers=self._memory.read(answer.spans))

    def _end(self, number: int) -> str:
        """What became of a process that did not answer."""
        try:
            code = self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        by = f"by {signal.Signals(-code).name}" if code < 0 else f"with code {code}"
        return (
            f"a process that reads the data (data.workers) ended {by} at batch "
            f"{number:,}: it may have run out of memory, for which fewer workers help; "
            "the same command goes on from the newest checkpoint"
        )

    def close(self) -> None:
        """Ends the process, which holds nothing that could be lost."""
        self._process.kill()
        with contextlib.suppress(OSError), self._process:
            pass  # closes the pipes, and waits
        self._file.close()


def _memory_file() -> IO[bytes]:
    """A file without a name, in memory where the system can."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("batch"), "w+b", buffering=0)
    return tempfile.TemporaryFile(buffering=0)


@contextlib.contextmanager
def _signals_blocked() -> Iterator[None]:
    """Blocks what ends a command, which processes that are started inside inherit.

    So Ctrl-C, which goes to all processes of a terminal, ends none of them before the
    step under way is done.
    """
    before: Any = signal.pthread_sigmask(
        signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM)
    )
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
