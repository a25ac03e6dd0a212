"""The conventions, grids and options of diffusers' schedulers."""

from diffusionflow.interop.diffusers.conventions import dynamic_shift, from_diffusers
from diffusionflow.interop.diffusers.scheduler import (
    DiffusersScheduler,
    DiffusersSteps,
)

__all__ = ["DiffusersScheduler", "DiffusersSteps", "dynamic_shift", "from_diffusers"]
