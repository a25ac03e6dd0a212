"""The batches of a run, and a data set once through.

Batch k depends on (seed, k) and nothing else, so the step is the whole state of the
data and a run resumes at any batch. Several processes take interleaved parts of one
global batch.
"""

import functools
from collections.abc import Iterator
from typing import Any, TypeGuard

import numpy as np

from experiments.data.base import AugmentFn, Examples


class Batches:
    """All batches of a run by number, each read when it is indexed.

    The training examples are read epoch after epoch, each in an order of its own, and
    cut into batches without regard to where an epoch ends.

    Args:
      examples: the training examples.
      seed: of the order, in [0, 2^32).
      batch_size: of the global batch; each process has a contiguous part of it, in
        the order of the processes, as the devices do.
      process_index: this process.
      process_count: all processes.
      augment_fn: of the data set, called for each example with a generator for (seed,
        epoch, index of the example), and again for its mask.

    Raises:
      ValueError: if `batch_size` is no positive multiple of `process_count`.
    """

    def __init__(
        self,
        examples: Examples,
        *,
        seed: int,
        batch_size: int,
        process_index: int = 0,
        process_count: int = 1,
        augment_fn: AugmentFn | None = None,
    ):
        self._examples, self._batch_size = examples, batch_size
        self._seed, self._augment_fn = seed, augment_fn
        self._rows = np.arange(batch_size)[
            share(batch_size, process_index, process_count)
        ]
        self._count = len(examples.labels)

    def __len__(self) -> int:
        return 2**40  # there is always another epoch

    def __getitem__(self, number: int) -> Examples:
        """Reads this process's part of batch `number`."""
        epochs, places = np.divmod(number * self._batch_size + self._rows, self._count)
        parts = [
            _order(self._seed, int(epoch), self._count)[places[epochs == epoch]]
            for epoch in np.unique(epochs)
        ]
        index = np.concatenate(parts)
        batch = self._examples.gather(index)
        if self._augment_fn is None:
            return batch
        batch = batch._replace(values=self._augmented(epochs, index, batch.values))
        if batch.mask is None:
            return batch
        return batch._replace(mask=self._augmented(epochs, index, batch.mask))

    def _augmented(
        self, epochs: np.ndarray, index: np.ndarray, values: Any
    ) -> np.ndarray:
        """Augments each of `values` [b, ...] with the random generator of its example.

        In place where shape and dtype allow, of a copy unless they own their memory: a
        data set of one's own may give a view of what it stores.
        """
        if not _owns_memory(values):
            values = np.array(values)
        rng, augmented = np.random.RandomState(), values
        for place, of_example in enumerate(zip(epochs, index, strict=True)):
            rng.seed([self._seed, *of_example])  # in a tenth of the time of another one
            value = self._augment_fn(rng, values[place])
            if place == 0 and not _alike(value, values[0]):
                augmented = np.empty((len(values), *value.shape), value.dtype)
            if not _alike(value, augmented[place]):
                raise ValueError(
                    f"augment_fn gives shape {value.shape} and type {value.dtype}: "
                    "must be those of the first of the batch, "
                    f"{augmented.shape[1:]} and {augmented.dtype}"
                )
            augmented[place] = value
        return augmented


def _owns_memory(values: Any) -> TypeGuard[np.ndarray]:
    """Returns whether an array owns its memory: writing into it changes no other."""
    plain = isinstance(values, np.ndarray)
    return plain and values.flags.writeable and values.base is None


def _alike(one: np.ndarray, other: np.ndarray) -> bool:
    return one.shape == other.shape and one.dtype == other.dtype


@functools.lru_cache(maxsize=4)
def _order(seed: int, epoch: int, count: int) -> np.ndarray:
    """Draws the order of `count` examples in an epoch."""
    return np.random.RandomState([seed, epoch]).permutation(count)


def share(batch_size: int, process_index: int, process_count: int) -> slice:
    """Returns the rows of a global batch that belong to one process.

    Raises:
      ValueError: if `batch_size` is no positive multiple of `process_count`.
    """
    if batch_size < 1 or batch_size % process_count:
        raise ValueError(
            f"batch_size={batch_size}: must be a positive multiple of the "
            f"{process_count} processes"
        )
    count = batch_size // process_count
    return slice(process_index * count, (process_index + 1) * count)


def padded(count: int, batch_size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields every one of `count` examples once, in batches of one size.

    Yields:
      The index [batch_size] of the examples, and a mask [batch_size] that is False
      where the last batch was filled up by repetition.
    """
    for start in range(0, count, batch_size):
        index = np.arange(start, start + batch_size)
        mask = index < count
        index = np.where(mask, index, 0)
        yield index, mask
