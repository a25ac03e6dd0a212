"""Flax (Linen) networks with one call: `net.apply({"params": p}, z, time, label)`.

`UNet` and `DiT` take sequences [batch, length, channels], images [batch, height, width,
channels] and videos [batch, frames, height, width, channels]; `ResidualMLP` takes
vectors [batch, features]. The number of dimensions is that of z: there is no flag. A
network with `vector_features` takes a `vector` after the label as well, or several;
one with `two_times` takes a `second_time=`.

    >>> import jax, jax.numpy as jnp
    >>> from diffusionflow.networks import UNet
    >>> net, key = UNet(channels=8, multipliers=(1,), num_blocks=1), jax.random.key(0)
    >>> for sizes in (8,), (8, 8), (4, 8, 8):
    ...     z = jnp.zeros((1, *sizes, 3))
    ...     print(jax.eval_shape(net.init_with_output, key, z, jnp.ones(1))[0].shape)
    (1, 8, 3)
    (1, 8, 8, 3)
    (1, 4, 8, 8, 3)

`identity_attention`, `blurred_attention` and `skipped_layers` make worse ones of them,
to guide away from.

They know nothing of schedules, losses or samplers: `time` is schedule-free, and what
the output means is chosen elsewhere.
"""

from diffusionflow.networks.dit import DiT
from diffusionflow.networks.mlp import ResidualMLP
from diffusionflow.networks.perturbed import (
    blurred_attention,
    identity_attention,
    skipped_layers,
)
from diffusionflow.networks.unet import UNet

__all__ = [
    "DiT",
    "ResidualMLP",
    "UNet",
    "blurred_attention",
    "identity_attention",
    "skipped_layers",
]
