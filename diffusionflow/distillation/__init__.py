"""From many steps to one: flow maps, what they are trained on, and distillation."""

from diffusionflow.distillation.jumps import (
    FlowMapDenoiser,
    flow_map,
    inverse_jump,
    jump,
    jump_coefficients,
    jump_sign,
)
from diffusionflow.distillation.jumps import (
    TwoTimeFn as TwoTimeFn,
)

__all__ = [
    "FlowMapDenoiser",
    "flow_map",
    "inverse_jump",
    "jump",
    "jump_coefficients",
    "jump_sign",
]
