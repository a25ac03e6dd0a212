"""Networks of published weights, in Flax (Linen), called as the others of `networks`.

Their parameters have the names and layouts of the published files, and their fields
those of the files' `config.json`. `diffusionflow.interop.load` opens a folder.

    >>> import jax, jax.numpy as jnp
    >>> from diffusionflow.networks.pretrained import UNet2D
    >>> net = UNet2D(
    ...     down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",),
    ...     block_out_channels=(8,), layers_per_block=1, norm_num_groups=4,
    ... )
    >>> z, time = jnp.zeros((1, 8, 8, 3)), jnp.zeros(1)
    >>> params = jax.eval_shape(net.init, jax.random.key(0), z, time)["params"]
    >>> params["mid_block"]["attentions.0"]["to_q"]["weight"].shape
    (8, 8)
"""

from diffusionflow.networks.pretrained.autoencoder import AutoencoderKL
from diffusionflow.networks.pretrained.dit import DiTTransformer2D
from diffusionflow.networks.pretrained.edm import DhariwalUNet, SongUNet
from diffusionflow.networks.pretrained.unet2d import UNet2D

__all__ = [
    "AutoencoderKL",
    "DhariwalUNet",
    "DiTTransformer2D",
    "SongUNet",
    "UNet2D",
]
