"""The schedulers of diffusers, and networks of this library in its architectures."""

from diffusionflow.interop.diffusers.conventions import from_diffusers
from diffusionflow.interop.diffusers.networks import to_diffusers
from diffusionflow.interop.diffusers.scheduler import (
    DiffusersScheduler,
    DiffusersSteps,
)
from diffusionflow.interop.diffusers.shifts import dynamic_shift

__all__ = [
    "DiffusersScheduler",
    "DiffusersSteps",
    "dynamic_shift",
    "from_diffusers",
    "to_diffusers",
]
