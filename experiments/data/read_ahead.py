"""The batches of a run in order, read while the ones before are trained on."""

import contextlib
from collections.abc import Generator

import grain

from experiments.data.base import Examples
from experiments.data.loader import Batches
from experiments.data.worker_pool import WorkerPool

AHEAD = 4  # batches, or two for each process if those are more


def iterate(batches: Batches, start: int, workers: int = 0) -> Generator[Examples]:
    """Yields the batches from number `start` on, the same for any number of workers.

    Closing the iterator ends the processes.

    Args:
      batches: of the run.
      start: number of the first.
      workers: processes that read them; 0 reads in a thread of this one.

    Raises:
      UsageError: a batch cannot be read.
      PeerLost: a process that reads has ended.
    """
    options = grain.ReadOptions(
        num_threads=max(1, workers), prefetch_buffer_size=max(AHEAD, 2 * workers)
    )
    with contextlib.ExitStack() as stack:
        source: Batches | WorkerPool = batches
        if workers:
            source = WorkerPool(batches, workers)
            stack.callback(source.close)
        iterator = iter(grain.MapDataset.source(source).to_iter_dataset(options))
        iterator.set_state({"next_index": start})
        yield from iterator
