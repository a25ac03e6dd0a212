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
import time
from collections.abc import Callable, Iterator
from multiprocessing import connection
from typing import IO, Any

import cloudpickle

from experiments.data.base import Examples
from experiments.data.batch_worker import Failure, SharedMemory
from experiments.data.loader import Batches
from experiments.runtime.errors import PeerLost, UsageError

PATIENCE = 10.0  # seconds in which a process ends
POLL = 1.0  # seconds after which who waits for an answer sees that none will come
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
      UsageError: the system starts fewer processes.
    """

    def __init__(self, batches: Batches, count: int):
        self._length = len(batches)
        content = cloudpickle.dumps(batches)
        self._workers: list[_Worker] = []
        try:
            _start(lambda: _Worker(content), count, self._workers)
        except UsageError:
            self.close()
            raise
        self._idle: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
        for worker in self._workers:
            self._idle.put(worker)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, number: int) -> Examples:
        """Reads batch `number`; several threads may ask at once.

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
        """Ends the processes; who waits for a batch gets a `PeerLost`.

        One that waits for a disk or a network file system ends when that answers: it is
        left behind.
        """
        for worker in self._workers:
            worker.kill()
        end = time.monotonic() + PATIENCE
        for worker in self._workers:
            worker.close(max(0.0, end - time.monotonic()))


def check_startable(count: int) -> None:
    """Raises a `UsageError` if the system starts fewer processes than `count`.

    It starts as many, each with the pipes and the memory of a worker, and ends them.
    """
    started: list[_Worker] = []
    try:
        _start(lambda: _Worker(b""), count, started)
    finally:
        for worker in started:
            worker.kill()
        for worker in started:
            worker.close(PATIENCE)


def _start(
    start_fn: Callable[[], "_Worker"], count: int, workers: list["_Worker"]
) -> None:
    """Starts workers, which go into a list; raises a `UsageError` if some do not."""
    try:
        for _ in range(count):
            workers.append(start_fn())
    except OSError as error:
        raise UsageError(
            f"data.workers={count}: the system starts no more than {len(workers)} of "
            f"them ({error.strerror}); give fewer"
        ) from error


def check_picklable(batches: Batches, count: int) -> None:
    """Raises a `UsageError` if batches cannot be sent to `count` processes."""
    try:
        with open(os.devnull, "wb") as nothing:  # arrays are not even copied
            cloudpickle.dump(batches, nothing, 5, buffer_callback=lambda array: None)
    except Exception as error:  # whatever a part that cannot be pickled raises
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise UsageError(
            f"data.workers={count}: the data set cannot be sent to another process "
            f"({reason}); set data.workers=0"
        ) from error


class _Worker:
    """A process that reads batches.

    Args:
      content: the pickle of what is indexed.
    """

    def __init__(self, content: bytes):
        self._content: bytes | None = content
        self._is_killed = False
        with contextlib.ExitStack() as on_error:
            self._file = on_error.enter_context(_memory_file())
            self._memory = SharedMemory(self._file.fileno())
            code = CODE.format(path=sys.path, descriptor=self._file.fileno())
            with _signals_blocked():
                self._process = subprocess.Popen(
                    [sys.executable, "-c", code],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    pass_fds=[self._file.fileno()],
                    env=os.environ | {"JAX_PLATFORMS": "cpu"},  # for a data set
                )
            on_error.pop_all()

    def read(self, number: int) -> Examples:
        """Reads batch `number`."""
        requests, answers = self._process.stdin, self._process.stdout
        assert requests is not None and answers is not None
        try:
            if self._content is not None:
                pickle.dump(self._content, requests)
                self._content = None
            pickle.dump(number, requests)
            requests.flush()
            while not connection.wait([answers.fileno()], POLL):
                if self._is_killed:
                    raise EOFError
            answer = pickle.load(answers)
        except (EOFError, OSError, ValueError, pickle.UnpicklingError) as error:
            raise PeerLost(self._end(number)) from error
        if isinstance(answer, Failure):
            raise UsageError(answer.reason)
        return pickle.loads(answer.content, buffers=self._memory.read(answer.spans))

    def _end(self, number: int) -> str:
        """Describes how a process that did not answer has ended."""
        try:
            code = self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = -signal.SIGKILL
        by = f"by {signal.Signals(-code).name}" if code < 0 else f"with code {code}"
        return (
            f"a process that reads the data (data.workers) ended {by} at batch "
            f"{number:,}: it may have run out of memory, for which fewer workers help; "
            "the same command goes on from the newest checkpoint"
        )

    def kill(self) -> None:
        """Has the system end the process, which holds nothing that could be lost."""
        self._is_killed = True
        self._process.kill()

    def close(self, seconds: float) -> None:
        """Waits until the process has ended, as long as that; closes the pipes."""
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return  # closing the pipes would wait for who reads them
        with contextlib.suppress(OSError), self._process:
            pass
        self._file.close()


def _memory_file() -> IO[bytes]:
    """Opens a file without a name, in memory where the system can."""
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
