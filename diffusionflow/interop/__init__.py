"""Interoperability: networks trained elsewhere, by the conventions of their source.

A `Convention` says what a network of another library means in this one: which schedule
it was trained on, its prediction type, which time and which scale of z it is given.

    convention = interop.from_diffusers({"prediction_type": "v_prediction", ...})
    predict_fn = convention.predict_fn(net_fn)          # net_fn(z, time) of the source
    denoise_fn = predictions.denoiser(
        predict_fn, kind=convention.kind, schedule=convention.schedule
    )

and from there `predictions.reschedule` gives it any other schedule; `net_fn` is a
function of JAX arrays. `DiffusersScheduler` reads the rest of a scheduler as well: its
levels, its sampler and what it does to x_hat. Published networks whose architecture is
here are opened with their weights and convention by `load`, `load_dit` and `load_edm`,
autoencoders of latents by `load_autoencoder`; `save` writes a network of this library
for `load`, and `to_diffusers` converts a U-Net or DiT to the same network of diffusers.
These need flax and safetensors.
"""

from diffusionflow.interop.autoencoders import Autoencoder, Moments, load_autoencoder
from diffusionflow.interop.by_schedule import from_schedule
from diffusionflow.interop.convention import Convention, Wrapped
from diffusionflow.interop.diffusers import (
    DiffusersScheduler,
    DiffusersSteps,
    dynamic_shift,
    from_diffusers,
    to_diffusers,
)
from diffusionflow.interop.dit import load_dit
from diffusionflow.interop.edm import from_edm, iddpm_levels
from diffusionflow.interop.edm_networks import load_edm
from diffusionflow.interop.folders import load
from diffusionflow.interop.own import save
from diffusionflow.interop.pretrained import Network, Prediction, Pretrained
from diffusionflow.interop.sit import from_sit
from diffusionflow.interop.weights import read_weights

__all__ = [
    "Autoencoder",
    "Convention",
    "DiffusersScheduler",
    "DiffusersSteps",
    "Moments",
    "Network",
    "Prediction",
    "Pretrained",
    "Wrapped",
    "dynamic_shift",
    "from_diffusers",
    "from_edm",
    "from_schedule",
    "from_sit",
    "iddpm_levels",
    "load",
    "load_autoencoder",
    "load_dit",
    "load_edm",
    "read_weights",
    "save",
    "to_diffusers",
]
