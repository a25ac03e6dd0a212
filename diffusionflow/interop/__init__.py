"""Interoperability: networks trained elsewhere, by the conventions of their source.

A `Convention` says what a network of another library means in this one: which schedule
it was trained on, its prediction type, which time and which scale of z it is given.

    convention = interop.from_diffusers({"prediction_type": "v_prediction", ...})
    predict_fn = convention.predict_fn(net_fn)          # net_fn(z, time) of the source
    denoise_fn = predictions.denoiser(
        predict_fn, kind=convention.kind, schedule=convention.schedule
    )

and from there `predictions.reschedule` gives it any other schedule. Weights and
architectures are not converted; `net_fn` is a function of JAX arrays.
`DiffusersScheduler` reads the rest of a scheduler as well: its levels, its sampler and
what it does to x_hat.
"""

from diffusionflow.interop.convention import Convention, Wrapped
from diffusionflow.interop.diffusers import (
    DiffusersScheduler,
    DiffusersSteps,
    dynamic_shift,
    from_diffusers,
)
from diffusionflow.interop.edm import from_edm, iddpm_levels
from diffusionflow.interop.sit import from_sit

__all__ = [
    "Convention",
    "DiffusersScheduler",
    "DiffusersSteps",
    "Wrapped",
    "dynamic_shift",
    "from_diffusers",
    "from_edm",
    "from_sit",
    "iddpm_levels",
]
