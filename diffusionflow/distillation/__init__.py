"""From many steps to one: flow maps, what they are trained on, and distillation.

One concept: a network of two times P(z, t, s), of any prediction type on any schedule,
predicts what DDIM needs at `(z, t)` to land exactly at s. `flow_map` makes the map of
it, and `samplers.FlowMap` its jumps; at s = t it is an ordinary denoiser.

| method                            | what trains it                                   |
|-----------------------------------|--------------------------------------------------|
| progressive distillation          | `progressive_targets`, a network of one time     |
| reflow, one-step distillation     | `trajectory_pairs`, `inverse_jump`               |
| MeanFlow, sCM, AYF                | `eulerian_loss`                                  |
| self-distilled and distilled maps | `lagrangian_loss`, with a loss of the diagonal   |
| shortcut models                   | `semigroup_loss`, with a loss of the diagonal    |
| consistency models, CTM           | `consistency_loss` at `level_pairs`              |
| DMD, SiD, f-divergences           | `matching_loss`                                  |

`times.Two` draws pairs of times. Every loss is of arrays, per example, and its optimum
on Gaussian data is known: tests hold each to it.
"""

from diffusionflow.distillation.consistency import InverseGap, consistency_loss
from diffusionflow.distillation.curricula import (
    cm_decay,
    cm_levels,
    ect_partner,
    ict_levels,
    ict_probabilities,
    level_pairs,
    tangent_warmup,
)
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
from diffusionflow.distillation.flow_maps import FlowMapDenoiser, flow_map
from diffusionflow.distillation.jumps import (
    TwoTimeFn as TwoTimeFn,
)
from diffusionflow.distillation.jumps import (
    compose_jumps,
    inverse_jump,
    jump,
    jump_coefficients,
    jump_sign,
)
from diffusionflow.distillation.losses import (
    WeightFn as WeightFn,
)
from diffusionflow.distillation.losses import (
    eulerian_loss,
    lagrangian_loss,
    semigroup_loss,
)
from diffusionflow.distillation.matching import DIVERGENCES, matching_loss
from diffusionflow.distillation.residuals import (
    Residual,
    check_rates,
    eulerian_residual,
    lagrangian_residual,
)
from diffusionflow.distillation.targets import (
    guided_source,
    progressive_targets,
    progressive_times,
    solver_step,
    trajectory_pairs,
)

__all__ = [
    "DIVERGENCES",
    "Adaptive",
    "FlowMapDenoiser",
    "InverseGap",
    "Normalized",
    "PseudoHuber",
    "Residual",
    "check_rates",
    "cm_decay",
    "cm_levels",
    "compose_jumps",
    "consistency_loss",
    "ect_partner",
    "eulerian_loss",
    "eulerian_residual",
    "flow_map",
    "guided_source",
    "ict_levels",
    "ict_probabilities",
    "inverse_jump",
    "jump",
    "jump_coefficients",
    "jump_sign",
    "lagrangian_loss",
    "lagrangian_residual",
    "level_pairs",
    "matching_loss",
    "progressive_targets",
    "progressive_times",
    "semigroup_loss",
    "solver_step",
    "squared",
    "tangent_warmup",
    "trajectory_pairs",
]
