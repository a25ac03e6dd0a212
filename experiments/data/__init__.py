"""Data sets, their split and their batches.

One file for each source, found by its name in `config.registry`; a batch is a function
of the seed and the step, so that a resumed run reads what it would have read.
"""

from experiments.data.base import (
    DataSet,
    DataTransform,
    DrawFn,
    Examples,
    Lazy,
    check,
    split,
)

__all__ = [
    "DataSet",
    "DataTransform",
    "DrawFn",
    "Examples",
    "Lazy",
    "check",
    "split",
]
