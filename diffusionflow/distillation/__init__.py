"""From many steps to one: flow maps, what they are trained on, and distillation."""

from diffusionflow.distillation.distances import (
    Adaptive,
    Normalized,
    PseudoHuber,
    squared,
)
from diffusionflow.distillation.distances import (
    Metric as Metric,
)
from diffusionflow.distillation.distances import (
    StepFn as StepFn,
)
from diffusionflow.distillation.jumps import (
    FlowMapDenoiser,
    compose_jumps,
    flow_map,
    inverse_jump,
    jump,
    jump_coefficients,
    jump_sign,
)
from diffusionflow.distillation.jumps import (
    TwoTimeFn as TwoTimeFn,
)
from diffusionflow.distillation.residuals import (
    Residual,
    check_rates,
    eulerian_loss,
    eulerian_residual,
    lagrangian_loss,
    lagrangian_residual,
    semigroup_loss,
)
from diffusionflow.distillation.residuals import (
    WeightFn as WeightFn,
)

__all__ = [
    "Adaptive",
    "FlowMapDenoiser",
    "Normalized",
    "PseudoHuber",
    "Residual",
    "check_rates",
    "compose_jumps",
    "eulerian_loss",
    "eulerian_residual",
    "flow_map",
    "inverse_jump",
    "jump",
    "jump_coefficients",
    "jump_sign",
    "lagrangian_loss",
    "lagrangian_residual",
    "semigroup_loss",
    "squared",
]
