"""Flax (Linen) networks with one call: `net.apply({"params": p}, z, time, label)`.

They know nothing of schedules, losses or samplers: `time` is schedule-free, and what
the output means is chosen elsewhere.
"""

from diffusionflow.networks.mlp import ResidualMLP
from diffusionflow.networks.unet import UNet

__all__ = ["ResidualMLP", "UNet"]
