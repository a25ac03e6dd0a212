"""Time (noise-level) distributions for training.

A density over [0, 1] has `density(t, schedule)`, `cdf(t, schedule)`, its inverse
`quantile(u, schedule)`, and `sample(key, shape, schedule)`. In an objective it is part
of the loss; as a proposal it is what times are sampled from, and importance weights
correct for it. `AdaptiveTimes` is a proposal that learns where the loss is large. `Two`
draws the pairs of times that flow maps are trained at.

Some are densities of the time itself (`Uniform`, `LogitNormal`, `Mode`, `CosMap`), the
same for any schedule; the others are densities of the noise level, mapped to times by
the schedule that they are used with (`LogNormalSigma`, `UniformLogSNR`, `UniformOn`).
"""

from diffusionflow.times.adaptive import (
    AdaptiveTimes,
    LossMoments,
    adaptive_part,
    with_moments,
)
from diffusionflow.times.densities import (
    CosMap,
    InverseTransform,
    LogitNormal,
    Mode,
    Uniform,
)
from diffusionflow.times.derived import Stratified, Truncated, Two
from diffusionflow.times.noise_levels import (
    LogNormalSigma,
    UniformLogSNR,
    UniformOn,
    check_reached,
)

__all__ = [
    "AdaptiveTimes",
    "CosMap",
    "InverseTransform",
    "LogNormalSigma",
    "LogitNormal",
    "LossMoments",
    "Mode",
    "Stratified",
    "Truncated",
    "Two",
    "Uniform",
    "UniformLogSNR",
    "UniformOn",
    "adaptive_part",
    "check_reached",
    "with_moments",
]
