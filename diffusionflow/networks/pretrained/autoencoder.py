"""The autoencoder of latent diffusion as `AutoencoderKL` of diffusers has it."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from diffusionflow.networks.pretrained.layers import Conv, GroupNorm
from diffusionflow.networks.pretrained.resnet import Resample
from diffusionflow.networks.pretrained.unet2d_levels import (
    DownLevel,
    Level,
    Middle,
    Shared,
)

EPSILON = 1e-6


class UpDecoder(nn.Module):
    """Residual blocks, then twice the size.

    Fields:
      shared: settings of the blocks.
      features: channels of the result.
      num_blocks: number of residual blocks.
      resample: whether the size is doubled.
    """

    shared: Shared
    features: int
    num_blocks: int
    resample: bool

    @nn.compact
    def __call__(self, h: jax.Array) -> jax.Array:
        for i in range(self.num_blocks):
            groups = self.shared.groups
            h = self.shared.resnet(self.features, groups, f"resnets.{i}")(h)
        return Resample("up", name="upsamplers.0")(h) if self.resample else h


class Encoder(nn.Module):
    """Image to the channels of two moments, each side halved at all levels but one.

    Fields:
      shared: settings of the blocks.
      groups: of the normalisations.
      channels: of each level, going down.
      num_blocks: residual blocks a level.
      attention: whether the middle has attention.
      out_channels: of the result.
    """

    shared: Shared
    groups: int
    channels: tuple[int, ...]
    num_blocks: int
    attention: bool
    out_channels: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        h = Conv(self.channels[0], name="conv_in")(x)
        for i, features in enumerate(self.channels):
            resample = "conv" if i < len(self.channels) - 1 else ""
            name = f"down_blocks.{i}"
            level = DownLevel(
                self.shared, Level(), features, self.num_blocks, resample, name=name
            )
            h, _, _ = level(h, x, None, False)
        h = _middle(self.shared, self.groups, self.attention)(h, None)
        h = nn.silu(GroupNorm(self.groups, EPSILON, name="conv_norm_out")(h))
        return Conv(self.out_channels, name="conv_out")(h)


class Decoder(nn.Module):
    """Latents to image, each side doubled at all levels but one; see `Encoder`."""

    shared: Shared
    groups: int
    channels: tuple[int, ...]
    num_blocks: int
    attention: bool
    out_channels: int

    @nn.compact
    def __call__(self, z: jax.Array) -> jax.Array:
        h = Conv(self.channels[-1], name="conv_in")(z)
        h = _middle(self.shared, self.groups, self.attention)(h, None)
        last = len(self.channels) - 1
        for i, features in enumerate(reversed(self.channels)):
            name, count = f"up_blocks.{i}", self.num_blocks + 1
            h = UpDecoder(self.shared, features, count, i < last, name=name)(h)
        h = nn.silu(GroupNorm(self.groups, EPSILON, name="conv_norm_out")(h))
        return Conv(self.out_channels, name="conv_out")(h)


def _middle(shared: Shared, groups: int, attention: bool) -> Middle:
    return Middle(shared, groups, groups, attention, 1.0, name="mid_block")


class AutoencoderKL(nn.Module):
    """diffusers' `AutoencoderKL`: images to moments of latents, latents to images.

    Its parameters have the names of the published files. Fields are the entries of
    `config.json` under their names, with the defaults of diffusers.

    Source: Rombach et al. 2022, arXiv 2112.10752, appendix G.

    Fields:
      in_channels: of the images.
      out_channels: of the decoded images.
      down_block_types: "DownEncoderBlock2D" for each level.
      up_block_types: "UpDecoderBlock2D" for each level.
      block_out_channels: channels of each level, going down.
      layers_per_block: residual blocks a level going down; one more going up.
      act_fn: activation of the residual blocks.
      latent_channels: of the latents.
      norm_num_groups: of the normalisations.
      use_quant_conv: whether a 1 x 1 convolution follows the encoder.
      use_post_quant_conv: whether one precedes the decoder.
      mid_block_add_attention: whether the middles have attention.

    Raises:
      ValueError: another type of level, or lists of different lengths.
    """

    in_channels: int = 3
    out_channels: int = 3
    down_block_types: tuple[str, ...] = ("DownEncoderBlock2D",)
    up_block_types: tuple[str, ...] = ("UpDecoderBlock2D",)
    block_out_channels: tuple[int, ...] = (64,)
    layers_per_block: int = 1
    act_fn: str = "silu"
    latent_channels: int = 4
    norm_num_groups: int = 32
    use_quant_conv: bool = True
    use_post_quant_conv: bool = True
    mid_block_add_attention: bool = True

    def __post_init__(self) -> None:
        types = dict(
            down_block_types="DownEncoderBlock2D", up_block_types="UpDecoderBlock2D"
        )
        for name, each in types.items():
            wanted = (each,) * len(self.block_out_channels)
            if tuple(getattr(self, name)) != wanted:
                raise ValueError(
                    f"{name}={getattr(self, name)!r}: must be {each!r} for each of the "
                    f"{len(wanted)} block_out_channels"
                )
        super().__post_init__()

    def setup(self) -> None:
        """Makes the parts, which `encode` and `decode` share with `__call__`."""
        groups = self.norm_num_groups
        shared = Shared(groups, EPSILON, self.act_fn, False, None, 0.0, padding=0)
        both = (
            shared,
            groups,
            self.block_out_channels,
            self.layers_per_block,
            self.mid_block_add_attention,
        )
        self.encoder = Encoder(*both, 2 * self.latent_channels)
        self.decoder = Decoder(*both, self.out_channels)
        if self.use_quant_conv:
            self.quant_conv = Conv(2 * self.latent_channels, 1)
        if self.use_post_quant_conv:
            self.post_quant_conv = Conv(self.latent_channels, 1)

    @property
    def factor(self) -> int:
        """Side of an image over that of its latents."""
        return 2 ** (len(self.block_out_channels) - 1)

    def example_inputs(self) -> tuple[jax.ShapeDtypeStruct]:
        """Returns shapes that the network can be initialised with."""
        shape = (1, 2 * self.factor, 2 * self.factor, self.in_channels)
        return (jax.ShapeDtypeStruct(shape, jnp.float32),)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Encodes images to the mean of their latents, and decodes it."""
        return self.decode(self.encode(x)[..., : self.latent_channels])

    def encode(self, x: jax.Array) -> jax.Array:
        """Computes the moments of images.

        Args:
          x: [batch, height, width, in_channels], sides multiples of `factor`.

        Returns:
          [batch, height / factor, width / factor, 2 latent_channels], means, then
          logarithms of variances.
        """
        if x.ndim != 4 or x.shape[-1] != self.in_channels:
            raise ValueError(
                f"x of shape {x.shape}: must be [batch, height, width, "
                f"{self.in_channels}], channels last"
            )
        if any(size % self.factor for size in x.shape[1:3]):
            raise ValueError(
                f"images of {x.shape[1]} x {x.shape[2]} pixels: must be multiples of "
                f"{self.factor}"
            )
        moments = self.encoder(x)
        return self.quant_conv(moments) if self.use_quant_conv else moments

    def decode(self, z: jax.Array) -> jax.Array:
        """Computes the images of latents.

        Args:
          z: [batch, height, width, latent_channels], as `encode` gives them: not
            scaled.

        Returns:
          [batch, factor height, factor width, out_channels].
        """
        if z.ndim != 4 or z.shape[-1] != self.latent_channels:
            raise ValueError(
                f"z of shape {z.shape}: must be [batch, height, width, "
                f"{self.latent_channels}], channels last"
            )
        return self.decoder(self.post_quant_conv(z) if self.use_post_quant_conv else z)
