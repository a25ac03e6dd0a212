"""Training objectives: a weighted MSE with a time (noise-level) distribution.

Every Gaussian objective is `1/2 int W(logsnr) E ||eps_hat - eps||^2 dlogsnr` up to a
constant. `W`, the total weight, is all that two objectives can differ in; the schedule,
the prediction type and the proposal change how it is estimated.

The published recipes are functions that return an `Objective`; `RECIPES` lists them.

Source: Kingma and Gao 2023, arXiv 2303.00848.
"""

from diffusionflow.objectives.base import (
    Comparison,
    Objective,
    check_support,
    same_objective,
    total_weight,
)
from diffusionflow.objectives.recipes import RECIPES as RECIPES
from diffusionflow.objectives.recipes import (
    ddpm,
    edm,
    flow_matching,
    iddpm,
    min_snr,
    p2,
    score_sde_subvp,
    score_sde_ve,
    score_sde_vp,
    sd3,
    sd3_cosmap,
    sd3_mode,
    sid2,
    sit,
    v_cosine,
    vdm,
)

__all__ = [
    "Comparison",
    "Objective",
    "check_support",
    "ddpm",
    "edm",
    "flow_matching",
    "iddpm",
    "min_snr",
    "p2",
    "same_objective",
    "score_sde_subvp",
    "score_sde_ve",
    "score_sde_vp",
    "sd3",
    "sd3_cosmap",
    "sd3_mode",
    "sid2",
    "sit",
    "total_weight",
    "v_cosine",
    "vdm",
]
