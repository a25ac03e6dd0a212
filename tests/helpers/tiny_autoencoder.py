"""A small autoencoder in a folder as diffusers lays it out, and images for it."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
from safetensors.numpy import save_file

from diffusionflow.networks.pretrained import AutoencoderKL
from tests.helpers.pretrained_weights import random_state

CONFIG = dict(
    block_out_channels=[2, 2],
    down_block_types=["DownEncoderBlock2D"] * 2,
    up_block_types=["UpDecoderBlock2D"] * 2,
    latent_channels=4,
    norm_num_groups=1,
    mid_block_add_attention=False,
)
SCALES = dict(scaling_factor=0.5, shift_factor=0.25)


def write_autoencoder(folder, **entries):
    """Writes config and random weights: sides halved once, 4 channels."""
    lists = lambda value: tuple(value) if isinstance(value, list) else value
    net = AutoencoderKL(**{name: lists(value) for name, value in CONFIG.items()})
    z = jax.ShapeDtypeStruct((1, 4, 4, 3), jnp.float32)
    shapes = jax.eval_shape(net.init, jax.random.key(0), z)["params"]
    leaves = jax.tree_util.tree_leaves_with_path(shapes)
    named = {".".join(key.key for key in path): leaf.shape for path, leaf in leaves}
    folder.mkdir()
    save_file(random_state(named), folder / "diffusion_pytorch_model.safetensors")
    config = CONFIG | SCALES | {"_class_name": "AutoencoderKL"} | entries
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def write_images(folder, count=12, side=8):
    """Writes `count` images of each of two classes."""
    values = np.random.RandomState(0)
    for label in ("cat", "dog"):
        (folder / label).mkdir(parents=True)
        for number in range(count):
            pixels = values.randint(0, 256, (side, side, 3)).astype(np.uint8)
            PIL.Image.fromarray(pixels).save(folder / label / f"{number}.png")
    return folder
