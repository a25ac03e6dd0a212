"""Data sets, their split and their batches.

One file for each source; a batch is a function of the seed and the step, so that a
resumed run reads what it would have read.
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
from experiments.data.cifar import cifar10, cifar100
from experiments.data.hub import huggingface, tfds
from experiments.data.image_folder import folder
from experiments.data.latents import latents
from experiments.data.npz_files import npz
from experiments.data.pairs import pairs
from experiments.data.sklearn_images import digits, patches
from experiments.data.toy2d import checkerboard, mixture, mixture_means, moons

__all__ = [
    "DataSet",
    "DataTransform",
    "DrawFn",
    "Examples",
    "Lazy",
    "check",
    "checkerboard",
    "cifar10",
    "cifar100",
    "digits",
    "folder",
    "huggingface",
    "latents",
    "mixture",
    "mixture_means",
    "moons",
    "npz",
    "pairs",
    "patches",
    "split",
    "tfds",
]
