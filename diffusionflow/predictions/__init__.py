"""Prediction types (kinds): what a network predicts, and conversions between them.

A kind is a vector `(a, b)` in the plane of data and noise: it predicts
`p = a x + b eps`. Together with `z = alpha x + sigma eps` that is a 2x2 system with
determinant `D = b alpha - a sigma`:

    x = (b z - sigma p) / D,    eps = (alpha p - a z) / D,

and at fixed z an error of p is `D / alpha` times the error of eps. Conversions go
through `Denoised(x, eps)`, which keeps both, so nothing is lost where alpha or sigma
vanishes.

Kinds by name: "x", "eps", "v" = alpha eps - sigma x, "u" = eps - x,
"dz_dt" = alpha' x + sigma' eps, "score" = -eps / sigma; or a value such as
`edm_f(sigma_data=0.5)`.
"""

from diffusionflow.predictions.checks import (
    as_data,
    as_input,
    check_same_shape,
    check_unit_interval,
)
from diffusionflow.predictions.conversion import (
    convert,
    from_denoised,
    per_event,
    to_denoised,
)
from diffusionflow.predictions.denoisers import (
    Denoised,
    Denoiser,
    as_prediction,
    denoise_toward,
)
from diffusionflow.predictions.denoisers import (
    DenoiseFn as DenoiseFn,
)
from diffusionflow.predictions.functions import FunctionDenoiser, as_denoiser
from diffusionflow.predictions.kinds import (
    AMBIGUOUS as AMBIGUOUS,
)
from diffusionflow.predictions.kinds import (
    NAMES as NAMES,
)
from diffusionflow.predictions.kinds import (
    AnyKind as AnyKind,
)
from diffusionflow.predictions.kinds import (
    EdmF,
    Kind,
    as_kind,
    check_determined,
    determinant,
    edm_f,
    error_ratio,
    mse_ratio,
    same_kind,
)
from diffusionflow.predictions.kinds import (
    PredictionType as PredictionType,
)
from diffusionflow.predictions.network import NetworkDenoiser, denoiser
from diffusionflow.predictions.network import (
    PredictFn as PredictFn,
)
from diffusionflow.predictions.wrappers import (
    EdmPreconditioning,
    Flipped,
    Preconditioned,
    Rescheduled,
    edm_preconditioning,
    flip_time,
    precondition,
    reschedule,
)

__all__ = [
    "Denoised",
    "Denoiser",
    "EdmF",
    "EdmPreconditioning",
    "Flipped",
    "FunctionDenoiser",
    "Kind",
    "NetworkDenoiser",
    "Preconditioned",
    "Rescheduled",
    "as_data",
    "as_denoiser",
    "as_input",
    "as_kind",
    "as_prediction",
    "check_determined",
    "check_same_shape",
    "check_unit_interval",
    "convert",
    "denoise_toward",
    "denoiser",
    "determinant",
    "edm_f",
    "edm_preconditioning",
    "error_ratio",
    "flip_time",
    "from_denoised",
    "mse_ratio",
    "per_event",
    "precondition",
    "reschedule",
    "same_kind",
    "to_denoised",
]
