"""Defines examples, their split, the transform to floats and random augmentation.

A data set keeps what its source stores (quantised grey levels as uint8, points as
float32), in memory or read when it is asked for; `DataTransform` is the one way to
floats and back. All random numbers are of NumPy's `RandomState`, whose stream is
frozen.
"""

import concurrent.futures
import dataclasses
import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:  # processes that read data go without JAX
    import jax
    from jax.typing import ArrayLike

HOLD_OUT = 9  # every 9th example of each class is a test example
NUM_THREADS = min(16, os.cpu_count() or 1)  # that read the files of a batch


@dataclasses.dataclass(frozen=True)
class DataTransform:
    """Between stored values and the floats that a model sees.

    With `levels` = L, level q in 0..L-1 is the float 2 q / (L - 1) - 1 in [-1, 1].
    With `levels` = None, stored values are floats already and pass unchanged. Floats
    do so with levels too: a model's samples, as data of another one, are not rounded.

    Args:
      levels: number of quantisation levels, 2 to 256, or None.

    Raises:
      ValueError: if `levels` is out of range.
    """

    levels: int | None = None

    def __post_init__(self) -> None:
        whole = isinstance(self.levels, (int, np.integer))
        if self.levels is not None and not (whole and 2 <= self.levels <= 256):
            raise ValueError(
                f"levels={self.levels}: must be in 2..256, a whole number (samples are "
                "stored as uint8), or None for data that are floats already"
            )

    def to_float(self, values: "ArrayLike") -> "jax.Array":
        """Converts stored values [...] to float32 [...]; floats stay as they are."""
        import jax.numpy as jnp

        stored = jnp.asarray(values)
        x = stored.astype(jnp.float32)
        if self.levels is None or jnp.issubdtype(stored.dtype, jnp.floating):
            return x
        return x * (2 / (self.levels - 1)) - 1

    def to_stored(self, x: np.ndarray) -> np.ndarray:
        """Rounds floats [...] to the nearest stored values; the inverse of `to_float`.

        Floats outside [-1, 1] become the end levels: this is the only place where
        anything is clamped, and `clamped_fraction` says how much it was.

        Raises:
          ValueError: a value is not finite.
        """
        x = np.asarray(x, np.float32)
        if self.levels is None:
            return x
        if not (finite := np.isfinite(x)).all():
            raise ValueError(
                f"{(~finite).sum():,} of {x.size:,} values are not finite: they have "
                "no level; leave out the samples that hold them"
            )
        top = self.levels - 1
        return np.clip(np.rint((x + 1) * (top / 2)), 0, top).astype(np.uint8)

    def clamped_fraction(self, x: np.ndarray) -> float:
        """Computes the fraction of floats more than half a level outside [-1, 1]."""
        if self.levels is None:
            return 0.0
        return float(np.mean(np.abs(np.asarray(x)) > 1 + 1 / (self.levels - 1)))


class Lazy:
    """An array that is read row by row, when it is indexed.

    Args:
      shape: [n, *event].
      dtype: of the rows.
      read_fn: `number -> row` of shape [*event].
    """

    def __init__(
        self, shape: tuple[int, ...], dtype: Any, read_fn: Callable[[int], np.ndarray]
    ):
        self.shape, self.dtype, self._read_fn = shape, np.dtype(dtype), read_fn

    def __len__(self) -> int:
        return self.shape[0]

    def row(self, number: int) -> np.ndarray:
        """Reads row `number`, [*event]."""
        return self._read_fn(int(number))

    def __getitem__(self, index: np.ndarray) -> np.ndarray:
        """Reads the rows at `index` [b], as [b, *event], by several threads.

        Raises:
          ValueError: they differ in shape or type.
        """
        first = self.row(index[0])
        rows = np.empty((len(index), *first.shape), first.dtype)
        rows[0] = first
        places = iter(range(1, len(index)))  # each is taken by one thread

        def read(unused: int) -> None:
            del unused
            for place in places:
                row = self.row(index[place])
                if (row.shape, row.dtype) != (first.shape, first.dtype):
                    raise ValueError(
                        f"row {index[place]} has shape {row.shape} and type "
                        f"{row.dtype}: must be {first.shape} and {first.dtype}, as of "
                        f"row {index[0]}"
                    )
                rows[place] = row

        with concurrent.futures.ThreadPoolExecutor(NUM_THREADS) as pool:
            list(pool.map(read, range(NUM_THREADS)))
        return rows


class Examples(NamedTuple):
    """Examples, whose arrays have one leading axis.

    Fields:
      values: stored values [n, *event], read when indexed if `Lazy`.
      labels: int32 [n]; zeros where the data have no classes.
      conditions: float32 [n, k], the vectors that a network is given besides the label;
        None where there are none.
      mask: bool [n, *event], with axes of 1 where it is the same along them: the values
        that count in the loss; None for all.
      noise: float32 [n, *event], the eps that each example is paired with; None where
        every step draws its own.
    """

    values: Any
    labels: Any
    conditions: Any = None
    mask: Any = None
    noise: Any = None

    def gather(self, index: np.ndarray) -> "Examples":
        """Selects the examples at `index` [b], as `Examples` with leading axis [b]."""
        return Examples(*(None if part is None else part[index] for part in self))


AugmentFn = Callable[[np.random.RandomState, np.ndarray], np.ndarray]


class DataSet(NamedTuple):
    """A fixed train/test split, its transform and its number of classes.

    Fields:
      train: examples as they are stored.
      test: examples as the model sees them, but for `transform`.
      transform: between stored values and floats.
      num_classes: labels are 0..num_classes-1; 0 where the examples have no labels.
      augment_fn: random augmentation of a training example, `(rng, stored values
        [*event]) -> values`, with a generator for (seed, epoch, global index), and of
        its mask, with an equal one; None for none.
      digest: of the files, by which another version of them is noticed; empty where
        the arguments alone determine the examples.
      contents: digest of more than `digest` covers, which then counts for checkpoints
        from before alone; empty where `digest` covers all.
      original: where the examples are samples of a model, the data set that they stand
        for: its section of a config, `data`, and its identity, `examples`; else None.
      class_names: of label 0, 1, ...; empty where they have none.
      skipped: which files were left out, as plain JSON values; None for none.
    """

    train: Examples
    test: Examples
    transform: DataTransform
    num_classes: int
    augment_fn: AugmentFn | None = None
    digest: str = ""
    contents: str = ""
    original: Mapping[str, Any] | None = None
    class_names: tuple[str, ...] = ()
    skipped: Mapping[str, Any] | None = None

    def identity(self) -> dict[str, Any]:
        """Identifies the examples, as plain JSON values."""
        more = {
            "contents": self.contents,
            "original": self.original,
            "class_names": [*self.class_names],
            "skipped": self.skipped,
        }
        return {
            "num_train": len(self.train.labels),
            "num_test": len(self.test.labels),
            "digest": self.digest,
            **{name: value for name, value in more.items() if value},
        }

    def training_values(self, index: np.ndarray) -> np.ndarray:
        """Reads stored values [b, *event] of training examples, to compare with others.

        Those of moments are sampled once each, by `augment_fn`; flips are not drawn.

        Args:
          index: of the examples, [b].
        """
        values = self.train.values[index]
        if self.augment_fn is None or values.shape[1:] == self.event_shape:
            return values
        rng = np.random.RandomState
        drawn = zip(index, values, strict=True)
        return np.stack([self.augment_fn(rng([number]), row) for number, row in drawn])

    @property
    def event_shape(self) -> tuple[int, ...]:
        """Shape of one example, such as [height, width, channels] or [features]."""
        return self.test.values.shape[1:]

    @property
    def vector_features(self) -> int:
        """Length of the vector that an example is conditioned on; 0 for none."""
        conditions = self.test.conditions
        return 0 if conditions is None else conditions.shape[1]


def flip(rng: np.random.RandomState, values: np.ndarray) -> np.ndarray:
    """Flips an image [height, width, channels] left to right, half of the time."""
    if not rng.randint(2):
        return values
    mirrored = np.empty_like(values)
    for channel in range(values.shape[-1]):  # a quarter of the time of all at once
        mirrored[..., channel] = values[:, ::-1, channel]
    return mirrored


def split(
    values: np.ndarray | Lazy,
    labels: np.ndarray | None,
    levels: int | None,
    *,
    conditions: np.ndarray | None = None,
    mask: np.ndarray | None = None,
    noise: np.ndarray | None = None,
    num_classes: int | None = None,
    augment_fn: AugmentFn | None = None,
) -> DataSet:
    """Holds out every 9th example of each class, in stored order.

    The rule uses no random generator, so the split is the same for every version of
    every library.

    Args:
      values: stored values [n, *event].
      labels: class labels [n], integers from 0; None for data without classes, of
        which every 9th example is held out.
      levels: number of quantisation levels, or None for floats.
      conditions: vectors [n, k], or None.
      mask: bool, of the values that count, or None.
      noise: that each example is paired with, or None.
      num_classes: by default as many as the labels name.
      augment_fn: of the data set.

    Raises:
      ValueError: if there is nothing to hold out, or a label is out of range.
    """
    if labels is None:
        labels, num_classes = np.zeros(len(values), np.int32), 0
    else:
        labels = check_labels(labels, num_classes)
        num_classes = num_classes or int(labels.max()) + 1
    order = np.argsort(labels, kind="stable")
    _, first, counts = np.unique(labels[order], return_index=True, return_counts=True)
    place = np.arange(len(labels)) - np.repeat(first, counts)  # within the class
    held_out = np.zeros(len(labels), bool)
    held_out[order[place % HOLD_OUT == HOLD_OUT - 1]] = True
    if not held_out.any():
        raise ValueError(
            f"{len(labels)} examples of {max(1, num_classes)} classes: every "
            f"{HOLD_OUT}th of a class is held out, so at least one class needs "
            f"{HOLD_OUT}"
        )
    examples = Examples(values, labels, conditions, mask, noise)
    train, test = (subset(examples, chosen) for chosen in (~held_out, held_out))
    return DataSet(train, test, DataTransform(levels), num_classes, augment_fn)


def subset(examples: Examples, chosen: np.ndarray) -> Examples:
    """Selects the examples where `chosen` [n] is True; lazy values stay lazy."""
    values, *others = examples
    number = np.flatnonzero(chosen)
    if isinstance(values, Lazy):
        rows = Lazy(
            (len(number), *values.shape[1:]),
            values.dtype,
            lambda place: values.row(number[place]),
        )
    else:
        rows = values[number]
    return Examples(rows, *(None if part is None else part[number] for part in others))


def check_labels(labels: np.ndarray, num_classes: int | None = None) -> np.ndarray:
    """Checks labels [n], and converts them to int32.

    Args:
      labels: of the examples.
      num_classes: some of which may have no example; None where the labels alone say
        how many there are, and each has one.

    Raises:
      ValueError: if there are none, or they are no integers of the classes.
    """
    labels = np.asarray(labels)
    if labels.ndim != 1 or not len(labels) or labels.dtype.kind not in "iu":
        raise ValueError(
            f"labels of shape {labels.shape} and type {labels.dtype}: must be [n] "
            "integers, n at least 1"
        )
    found = np.unique(labels)
    low, high = int(found[0]), int(found[-1])
    if low < 0 or (num_classes and high >= num_classes):
        last = num_classes - 1 if num_classes else "num_classes - 1"
        raise ValueError(f"labels from {low} to {high}: must be in 0..{last}")
    if num_classes is None and high >= len(found):
        empty = int(np.argmax(found != np.arange(len(found))))
        raise ValueError(
            f"{len(found)} different labels from {low} to {high}, none of class "
            f"{empty}: must be 0..{len(found) - 1}, each with an example"
        )
    return labels.astype(np.int32)
