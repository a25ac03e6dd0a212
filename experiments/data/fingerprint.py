"""Digests of data sets, by which a checkpoint recognizes its examples."""

import concurrent.futures
import hashlib
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np

from experiments.data.base import NUM_THREADS

SAMPLED = 1_000  # files or rows that are looked into: no more than a batch reads


def digest_of(*parts: Any) -> str:
    """Computes 16 hex digits of the SHA-256 of the representations of `parts`."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def file_digest(*paths: str | pathlib.Path) -> str:
    """Computes the digest of the contents of files, in order."""
    found = []
    for path in paths:
        with open(path, "rb") as file:
            found.append(hashlib.file_digest(file, "sha256").hexdigest())
    return digest_of(found)


def evenly(count: int, most: int) -> np.ndarray:
    """Picks at most `most` of the numbers 0..count - 1, evenly spread, 0 among them.

    Args:
      count: at least 1.
      most: at least 1.
    """
    chosen = min(count, most)
    return np.arange(chosen) * count // chosen


def sampled(digest_fn: Callable[[int], str], count: int, most: int) -> list[str]:
    """Digests of at most `most` of `count` parts, evenly spread, by several threads.

    Args:
      digest_fn: `number -> digest` of a part.
      count: of the parts, at least 1.
      most: at least 1.
    """
    with concurrent.futures.ThreadPoolExecutor(NUM_THREADS) as pool:
        return list(pool.map(digest_fn, evenly(count, most).tolist()))
