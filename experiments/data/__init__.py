"""Data sets: one module a family, and what they share in `core`."""

from experiments.data.arrays import latents, npz
from experiments.data.cifar import cifar10
from experiments.data.core import (
    DataSet,
    DataTransform,
    DrawFn,
    Examples,
    Lazy,
    split,
)
from experiments.data.folders import folder
from experiments.data.hub import huggingface, tfds
from experiments.data.photographs import digits, patches
from experiments.data.points import checkerboard, mixture, mixture_means, moons

__all__ = [
    "DataSet",
    "DataTransform",
    "DrawFn",
    "Examples",
    "Lazy",
    "checkerboard",
    "cifar10",
    "digits",
    "folder",
    "huggingface",
    "latents",
    "mixture",
    "mixture_means",
    "moons",
    "npz",
    "patches",
    "split",
    "tfds",
]
