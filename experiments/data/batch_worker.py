"""Reads batches in a process of its own, for `worker_pool`.

Requests come through standard input, the numbers of batches; answers go to standard
output. Both are pickles, but for the arrays of a batch, which lie in memory that the
two processes share. The process ends when its input does, which is when the process
that started it ends, however that happens. It starts no device of JAX.
"""

import mmap
import os
import pickle
from collections.abc import Sequence
from typing import BinaryIO, NamedTuple

from experiments.runtime.errors import UsageError

ALIGNMENT = 64  # bytes


class Failure(NamedTuple):
    """Why a batch could not be read, in one line."""

    reason: str


class Spans(NamedTuple):
    """A batch.

    Fields:
      content: pickle of the batch without its arrays.
      spans: first byte and end of each array in the shared memory.
    """

    content: bytes
    spans: list[tuple[int, int]]


class SharedMemory:
    """Memory of two processes: an open file, which grows as it is written.

    Args:
      descriptor: of the file.
    """

    def __init__(self, descriptor: int):
        self._descriptor = descriptor
        self._map: mmap.mmap | None = None

    def write(self, buffers: Sequence[pickle.PickleBuffer]) -> list[tuple[int, int]]:
        """Writes buffers one after another; returns the span of each."""
        spans, end = [], 0
        for buffer in buffers:
            start = -(-end // ALIGNMENT) * ALIGNMENT
            end = start + buffer.raw().nbytes
            spans.append((start, end))
        if os.fstat(self._descriptor).st_size < end:
            os.ftruncate(self._descriptor, end)
        for (start, stop), buffer in zip(spans, buffers, strict=True):
            self._mapped(end)[start:stop] = buffer.raw()
        return spans

    def read(self, spans: Sequence[tuple[int, int]]) -> list[bytearray]:
        """Copies of the spans that `write` returned."""
        view = memoryview(self._mapped(max((stop for _, stop in spans), default=0)))
        return [bytearray(view[start:stop]) for start, stop in spans]

    def _mapped(self, size: int) -> mmap.mmap | bytearray:
        """Maps the file into memory as far as byte `size`."""
        if not size:
            return bytearray()
        if self._map is None or len(self._map) < size:
            self._map = mmap.mmap(self._descriptor, size)
        return self._map


def serve(requests: BinaryIO, answers: BinaryIO, memory: SharedMemory) -> None:
    """Answers requests until there are no more.

    Args:
      requests: the pickle of what is indexed by the numbers of batches, then numbers.
      answers: gets `Spans` or a `Failure` for each number.
      memory: gets the arrays of a batch; the next number says that they were copied.
    """
    content, batches = pickle.load(requests), None
    while True:
        number = pickle.load(requests)
        try:
            if batches is None:
                batches = pickle.loads(content)
            buffers: list[pickle.PickleBuffer] = []
            batch = pickle.dumps(batches[number], 5, buffer_callback=buffers.append)
            answer: Spans | Failure = Spans(batch, memory.write(buffers))
        except UsageError as error:
            answer = Failure(str(error))
        except Exception as error:  # whatever a data set of the user's own raises
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            answer = Failure(
                f"config.data: batch {number:,}: {reason}; data.workers=0 shows where"
            )
        pickle.dump(answer, answers)
        answers.flush()


def main(descriptor: int) -> None:
    """Serves the process at standard input and output.

    Args:
      descriptor: of the shared memory.
    """
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    with open(os.devnull) as nothing:  # for what a data set, or its child, reads
        os.dup2(nothing.fileno(), 0)
    os.dup2(2, 1)  # for what it prints
    try:
        serve(requests, answers, SharedMemory(descriptor))
    except (EOFError, BrokenPipeError):  # the other process has ended
        os._exit(0)
