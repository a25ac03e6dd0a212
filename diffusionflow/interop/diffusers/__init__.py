"""The conventions, grids and options of diffusers' schedulers."""

from diffusionflow.interop.diffusers.conventions import from_diffusers
from diffusionflow.interop.diffusers.scheduler import (
    DiffusersScheduler,
    DiffusersSteps,
)
from diffusionflow.interop.diffusers.shifts import dynamic_shift

__all__ = ["DiffusersScheduler", "DiffusersSteps", "dynamic_shift", "from_diffusers"]
