"""Flax (Linen) networks with one call: `net.apply({"params": p}, z, time, label)`.

A network with `vector_features` takes a `vector` after the label as well.

They know nothing of schedules, losses or samplers: `time` is schedule-free, and what
the output means is chosen elsewhere.
"""

from diffusionflow.networks.dit import DiT
from diffusionflow.networks.mlp import ResidualMLP
from diffusionflow.networks.unet import UNet

__all__ = ["DiT", "ResidualMLP", "UNet"]
