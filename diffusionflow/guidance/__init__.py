"""Guidance: `denoise_fn -> denoise_fn`, whatever the network predicts.

| function              | what it does                                                 |
|-----------------------|--------------------------------------------------------------|
| `classifier_free`     | `uncond + scale (cond - uncond)`                             |
| `autoguidance`        | the same, away from a weaker or perturbed network            |
| `projected`           | APG: without the part along x_hat, and with bounded updates  |
| `zero_star`           | CFG-Zero*: away from the multiple of uncond that fits best   |
| `frequency_decoupled` | FDG: a scale for each band of an image                       |
| `plus_plus`           | CFG++: DDIM's step with the eps_hat of uncond                |
| `weighted`            | the strength of any of these but CFG++ by the log-SNR        |
| `limited`             | guidance in an interval of log-SNR, one network outside      |
| `rescale`             | gives back the standard deviation of the positive prediction |
| `static_threshold`    | clips x_hat to a range                                       |
| `dynamic_threshold`   | clips x_hat to a quantile of itself, and scales it           |
| `inpaint`             | puts known pixels into x_hat                                 |

Each result is a registered callable, but for CFG++ keeps `z = alpha x_hat + sigma
eps_hat`, its numbers are leaves (another scale costs no compilation), and they nest:
thresholds go around guidance, `inpaint` around everything. Perturbed networks for
`autoguidance` (PAG, SEG, skipped layers) are in `networks`.

Each result is a `predictions.Denoiser`: it counts its network calls (NFE), checks
times, finalizes samples and knows its schedule through the denoisers inside it.
"""

from diffusionflow.guidance.base import Guided
from diffusionflow.guidance.constraints import (
    DynamicThreshold,
    Inpainted,
    StaticThreshold,
    dynamic_threshold,
    inpaint,
    static_threshold,
)
from diffusionflow.guidance.frequencies import (
    FrequencyDecoupled,
    frequency_decoupled,
)
from diffusionflow.guidance.mixing import (
    Extrapolated,
    Rescaled,
    autoguidance,
    classifier_free,
    from_weight,
    rescale,
)
from diffusionflow.guidance.projections import (
    Projected,
    ScaledNegative,
    projected,
    zero_star,
)
from diffusionflow.guidance.steps import StepGuided, plus_plus
from diffusionflow.guidance.weights import Interval, Weighted, limited, weighted

__all__ = [
    "DynamicThreshold",
    "Extrapolated",
    "FrequencyDecoupled",
    "Guided",
    "Inpainted",
    "Interval",
    "Projected",
    "Rescaled",
    "ScaledNegative",
    "StaticThreshold",
    "StepGuided",
    "Weighted",
    "autoguidance",
    "classifier_free",
    "dynamic_threshold",
    "frequency_decoupled",
    "from_weight",
    "inpaint",
    "limited",
    "plus_plus",
    "projected",
    "rescale",
    "static_threshold",
    "weighted",
    "zero_star",
]
