"""CIFAR-10 from its published binary files.

A missing or broken file is a `ValueError` that names it.
"""

import pathlib

import numpy as np

from experiments.data.base import DataSet, DataTransform, Examples, check_labels, flip
from experiments.data.fingerprint import file_digest

CIFAR_SHAPE = (3, 32, 32)
CIFAR_RECORDS = 10_000  # in each file
CIFAR_TRAIN = tuple(f"data_batch_{number}.bin" for number in range(1, 6))


def cifar10(*, path: str, flips: bool = False) -> DataSet:
    """CIFAR-10 from its binary version: uint8 [n, 32, 32, 3], its own test part.

    Args:
      path: of the directory with `data_batch_1.bin` to `data_batch_5.bin` and
        `test_batch.bin`: records of a label and 3 x 32 x 32 bytes.
      flips: mirrors training images half of the time.

    Raises:
      ValueError: if a file is missing or not of its size.

    Source: Krizhevsky, Learning multiple layers of features from tiny images, 2009.
    """
    files = [pathlib.Path(path) / name for name in (*CIFAR_TRAIN, "test_batch.bin")]
    *parts, test = map(_read_cifar, files)
    train = Examples(
        np.concatenate([part.values for part in parts]),
        np.concatenate([part.labels for part in parts]),
    )
    draw_fn, digest = flip if flips else None, file_digest(*files)
    return DataSet(train, test, DataTransform(256), 10, draw_fn, digest)


def _read_cifar(file: pathlib.Path) -> Examples:
    try:
        stored = np.fromfile(file, np.uint8)
    except OSError as error:
        raise ValueError(f"{file}: {error.strerror}") from error
    record = 1 + int(np.prod(CIFAR_SHAPE))
    if stored.size != CIFAR_RECORDS * record:
        raise ValueError(
            f"{file}: {stored.size} bytes: must be {CIFAR_RECORDS} records of {record} "
            "bytes; copy it again"
        )
    rows = stored.reshape(-1, record)
    labels = check_labels(rows[:, 0], num_classes=10)
    return Examples(rows[:, 1:].reshape(-1, *CIFAR_SHAPE).transpose(0, 2, 3, 1), labels)
