"""The levels of `UNet2D`: residual blocks, attention and resampling, down and up."""

import math
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from diffusionflow.networks.pretrained.layers import Attention, Conv, GroupNorm
from diffusionflow.networks.pretrained.resnet import (
    Resample,
    ResnetBlock,
    fir_down,
    fir_up,
)


class Level(NamedTuple):
    """What the blocks of one level are, in the way down or the way up.

    Fields:
      attention: whether there is attention after the residual blocks.
      skip: whether the image itself is resampled too, as in NCSN++ and StyleGAN2.
      resnet: whether a residual block resamples, in place of a convolution.
    """

    attention: bool = False
    skip: bool = False
    resnet: bool = False


DOWN = {
    "DownBlock2D": Level(),
    "AttnDownBlock2D": Level(attention=True),
    "ResnetDownsampleBlock2D": Level(resnet=True),
    "SkipDownBlock2D": Level(skip=True),
    "AttnSkipDownBlock2D": Level(attention=True, skip=True),
}
UP = {
    "UpBlock2D": Level(),
    "AttnUpBlock2D": Level(attention=True),
    "ResnetUpsampleBlock2D": Level(resnet=True),
    "SkipUpBlock2D": Level(skip=True),
    "AttnSkipUpBlock2D": Level(attention=True, skip=True),
}
SKIP_SCALE = math.sqrt(2.0)
SKIP_ATTENTION_GROUPS = 32


class Shared(NamedTuple):
    """What every block of a network has in common; see the fields of `UNet2D`."""

    groups: int | None
    epsilon: float
    act_fn: str
    scale_shift: bool
    head_features: int | None
    dropout: float
    padding: int

    def resnet(
        self, features: int, groups: int | None, name: str, **settings: Any
    ) -> ResnetBlock:
        """Makes a residual block, in the module that calls it."""
        if groups is None:
            raise ValueError(
                "norm_num_groups=None: must be a number of groups for blocks such as "
                "DownBlock2D; only SkipDownBlock2D, SkipUpBlock2D and their kind "
                "choose it"
            )
        return ResnetBlock(
            features,
            groups,
            self.epsilon,
            act_fn=self.act_fn,
            scale_shift=self.scale_shift,
            dropout=self.dropout,
            name=name,
            **settings,
        )

    def attention(
        self, features: int, groups: int | None, scale: float, name: str
    ) -> Attention:
        """Makes an attention, in the module that calls it."""
        head = self.head_features or features
        return Attention(head, groups, self.epsilon, scale, name=name)


class DownLevel(nn.Module):
    """Residual blocks, then half the size.

    Fields:
      shared: of the network.
      level: the kind of its blocks.
      features: channels of the result.
      num_blocks: number of residual blocks.
      resample: "", "conv" or "resnet": how the size is halved at the end.
    """

    shared: Shared
    level: Level
    features: int
    num_blocks: int
    resample: str

    @nn.compact
    def __call__(
        self, h: jax.Array, image: jax.Array, time: jax.Array | None, train: bool
    ) -> tuple[jax.Array, list[jax.Array], jax.Array]:
        """Returns the map, all maps of the level, and the image at its size."""
        shared, skip, maps = self.shared, self.level.skip, []
        scale = SKIP_SCALE if skip else 1.0
        attention_groups = SKIP_ATTENTION_GROUPS if skip else shared.groups
        for i in range(self.num_blocks):
            groups = min(h.shape[-1] // 4, 32) if skip else shared.groups
            groups_out = min(self.features // 4, 32) if skip else None
            block = shared.resnet(
                self.features,
                groups,
                f"resnets.{i}",
                groups_out=groups_out,
                scale=scale,
            )
            h = block(h, time, train)
            if self.level.attention:
                name = f"attentions.{i}"
                h = shared.attention(self.features, attention_groups, scale, name)(h)
            maps.append(h)
        if self.resample:
            h, image = self._halved(h, image, time, train)
            maps.append(h)
        return h, maps, image

    def _halved(
        self, h: jax.Array, image: jax.Array, time: jax.Array | None, train: bool
    ) -> tuple[jax.Array, jax.Array]:
        shared, features = self.shared, self.features
        if self.level.skip:
            h = shared.resnet(
                features,
                min(features // 4, 32),
                "resnet_down",
                scale=SKIP_SCALE,
                resample="fir_down",
                shortcut=True,
            )(h, time, train)
            image = fir_down(image)
            return Conv(features, 1, name="skip_conv")(image) + h, image
        if self.resample == "resnet":
            name = "downsamplers.0"
            block = shared.resnet(features, shared.groups, name, resample="down")
            return block(h, time, train), image
        return Resample("down", shared.padding, name="downsamplers.0")(h), image


class UpLevel(nn.Module):
    """Residual blocks on maps joined with those of the way down, then twice the size.

    Fields:
      shared: of the network.
      level: the kind of its blocks.
      features: channels of the result.
      resample: "", "conv" or "resnet": how the size is doubled at the end.
      image_channels: of the image that levels with `skip` make.
    """

    shared: Shared
    level: Level
    features: int
    resample: str
    image_channels: int

    @nn.compact
    def __call__(
        self,
        h: jax.Array,
        maps: list[jax.Array],
        image: jax.Array | None,
        time: jax.Array,
        train: bool,
    ) -> tuple[jax.Array, jax.Array | None]:
        """Returns the map and the image, from the `maps` that it takes last first."""
        shared, skip = self.shared, self.level.skip
        scale = SKIP_SCALE if skip else 1.0
        for i, other in enumerate(reversed(maps)):
            groups = shared.groups
            if skip:
                groups = self._skip_groups(h.shape[-1], other.shape[-1])
            name, out = f"resnets.{i}", min(self.features // 4, 32) if skip else None
            block = shared.resnet(
                self.features, groups, name, groups_out=out, scale=scale
            )
            h = block(jnp.concatenate([h, other], axis=-1), time, train)
            if self.level.attention and not skip:
                name = f"attentions.{i}"
                h = shared.attention(self.features, shared.groups, scale, name)(h)
        if self.level.attention and skip:
            name, groups = "attentions.0", SKIP_ATTENTION_GROUPS
            h = shared.attention(self.features, groups, scale, name)(h)
        return self._doubled(h, image, time, train)

    def _skip_groups(self, inner: int, joined: int) -> int:
        """Computes the number of groups of a block that joins skip connections.

        The source's AttnSkipUpBlock2D divides the second number of channels only.
        """
        if self.level.attention:
            return min(inner + joined // 4, 32)
        return min((inner + joined) // 4, 32)

    def _doubled(
        self, h: jax.Array, image: jax.Array | None, time: jax.Array, train: bool
    ) -> tuple[jax.Array, jax.Array | None]:
        shared, features = self.shared, self.features
        if not self.level.skip:
            if self.resample == "resnet":
                name = "upsamplers.0"
                block = shared.resnet(features, shared.groups, name, resample="up")
                return block(h, time, train), image
            if self.resample:
                h = Resample("up", name="upsamplers.0")(h)
            return h, image
        image = None if image is None else fir_up(image)
        if not self.resample:
            return h, image
        groups = min(features // 4, 32)
        part = nn.silu(GroupNorm(groups, shared.epsilon, name="skip_norm")(h))
        part = Conv(self.image_channels, name="skip_conv")(part)
        block = shared.resnet(
            features,
            groups,
            "resnet_up",
            scale=SKIP_SCALE,
            resample="fir_up",
            shortcut=True,
        )
        return block(h, time, train), part if image is None else image + part


class Middle(nn.Module):
    """Two residual blocks with attention between them.

    Fields:
      shared: of the network.
      groups: of the residual blocks.
      attention_groups: of the attention; None for no normalisation there.
      attention: whether there is any.
      scale: divisor of the results of all three.
    """

    shared: Shared
    groups: int
    attention_groups: int | None
    attention: bool
    scale: float

    @nn.compact
    def __call__(
        self, h: jax.Array, time: jax.Array | None, train: bool = False
    ) -> jax.Array:
        features, shared = h.shape[-1], self.shared
        settings = dict(scale=self.scale)
        block = shared.resnet(features, self.groups, "resnets.0", **settings)
        h = block(h, time, train)
        if self.attention:
            groups = self.attention_groups
            h = shared.attention(features, groups, self.scale, "attentions.0")(h)
        block = shared.resnet(features, self.groups, "resnets.1", **settings)
        return block(h, time, train)
