"""Data sets, their split and their batches.

One file for each source, found by its name in `config.registry`; a batch is a function
of the seed and the step, so that a resumed run reads what it would have read.
"""

from experiments.data.base import (
    AugmentFn,
    DataSet,
    DataTransform,
    Examples,
    Lazy,
    split,
)
from experiments.data.dataset_check import check

__all__ = [
    "AugmentFn",
    "DataSet",
    "DataTransform",
    "Examples",
    "Lazy",
    "check",
    "split",
]
