"""Guidance: `denoise_fn -> denoise_fn`, whatever the network predicts.

| function            | what it does                                                   |
|---------------------|----------------------------------------------------------------|
| `classifier_free`   | `uncond + scale (cond - uncond)`                               |
| `autoguidance`      | the same, away from a weaker network                           |
| `limited`           | guidance in an interval of log-SNR, one network outside        |
| `rescale`           | gives back the standard deviation of the positive prediction   |
| `static_threshold`  | clips x_hat to a range                                         |
| `dynamic_threshold` | clips x_hat to a quantile of itself, and scales it             |
| `inpaint`           | puts known pixels into x_hat                                   |

Each result is a registered callable that keeps `z = alpha x_hat + sigma eps_hat`, its
numbers are leaves (another scale costs no compilation), and they nest: thresholds go
around guidance, `inpaint` around everything.

Each result is a `predictions.Denoiser`: it counts its network calls (NFE), checks
times, finalizes samples and knows its schedule through the denoisers inside it.
"""

from diffusionflow.guidance.constraints import (
    DynamicThreshold,
    Inpainted,
    StaticThreshold,
    dynamic_threshold,
    inpaint,
    static_threshold,
)
from diffusionflow.guidance.mixing import (
    Extrapolated,
    Limited,
    Rescaled,
    autoguidance,
    classifier_free,
    from_weight,
    limited,
    rescale,
)

__all__ = [
    "DynamicThreshold",
    "Extrapolated",
    "Inpainted",
    "Limited",
    "Rescaled",
    "StaticThreshold",
    "autoguidance",
    "classifier_free",
    "dynamic_threshold",
    "from_weight",
    "inpaint",
    "limited",
    "rescale",
    "static_threshold",
]
