"""Training methods for few-step models: what `config.distillation.method` names.

A method gives the loss of a two-time network `P(z, t, s)`, whose prediction at `(z, t)`
carries DDIM to s. The objective of the config stays what it is on the diagonal s = t:
schedule, prediction type and weighting are taken from there. A method of your own is a
class derived from `Method` and registered by `diffusionflow.register`.
"""

from experiments.config.methods.base import Batch, Method, Networks, TwoTimeFn
from experiments.config.methods.flow_maps import Lagrangian, MeanFlow, Shortcut
from experiments.config.methods.halving import Consistency, Progressive
from experiments.config.methods.pairs import OneStep, Reflow

__all__ = [
    "Batch",
    "Consistency",
    "Lagrangian",
    "MeanFlow",
    "Method",
    "Networks",
    "OneStep",
    "Progressive",
    "Reflow",
    "Shortcut",
    "TwoTimeFn",
]
