"""The U-Net of DDPM, LDM and the score SDEs as `UNet2DModel` of diffusers has it."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from diffusionflow.networks.pretrained.layers import (
    Conv,
    Embedding,
    GroupNorm,
    TimestepEmbedding,
    sinusoids,
)
from diffusionflow.networks.pretrained.unet2d_levels import (
    DOWN,
    UP,
    DownLevel,
    Level,
    Middle,
    Shared,
    UpLevel,
)

TIMES = ("positional", "fourier", "learned")


class UNet2D(nn.Module):
    """diffusers' `UNet2DModel`: the U-Net of DDPM, of LDM's latents and of NCSN++.

    Its parameters have the names of the published files. Fields are the entries of
    `config.json` under their names, with the defaults of diffusers.

    Source: Ho et al. 2020, arXiv 2006.11239, appendix B; Song et al. 2021, arXiv
    2011.13456, appendix H, for levels of type Skip; the options are those of diffusers
    0.42.

    Fields:
      in_channels: of the images.
      out_channels: of the output.
      center_input_sample: whether the network sees `2 z - 1`.
      time_embedding_type: one of `TIMES`: sinusoids of a timestep, random sinusoids of
        log sigma, or a table. With "fourier" the output is divided by the time.
      time_embedding_dim: features of the embedding; None for 4 block_out_channels[0].
      freq_shift: of the sinusoids, see `layers.sinusoids`.
      flip_sin_to_cos: whether the cosines come first.
      down_block_types: names in `DOWN`, one a level.
      mid_block_type: "UNetMidBlock2D" or None.
      up_block_types: names in `UP`, from the smallest maps on.
      block_out_channels: channels of each level, going down.
      layers_per_block: residual blocks a level going down; one more going up.
      mid_block_scale_factor: divisor of the middle's results.
      downsample_padding: of the convolutions going down; 0 pads at the end.
      downsample_type: "conv" or "resnet", of levels AttnDownBlock2D.
      upsample_type: "conv" or "resnet", of levels AttnUpBlock2D.
      dropout: rate inside the blocks, when training.
      act_fn: activation of the residual blocks.
      attention_head_dim: channels of a head; None for a single head.
      norm_num_groups: of the normalisations; None where every level is of type Skip.
      attn_norm_num_groups: of the middle's attention.
      norm_eps: of the normalisations.
      resnet_time_scale_shift: "default" or "scale_shift".
      add_attention: whether the middle has attention.
      class_embed_type: None for a table, "timestep" or "identity".
      num_class_embeds: classes of the table; None for a network without labels.
      num_train_timesteps: size of the table of times, for "learned".

    Raises:
      ValueError: a name that is not known, lists of different lengths, groups or heads
        that do not divide the channels, or, at a call, sizes that cannot be halved.
    """

    in_channels: int = 3
    out_channels: int = 3
    center_input_sample: bool = False
    time_embedding_type: str = "positional"
    time_embedding_dim: int | None = None
    freq_shift: int = 0
    flip_sin_to_cos: bool = True
    down_block_types: tuple[str, ...] = ("DownBlock2D", *["AttnDownBlock2D"] * 3)
    mid_block_type: str | None = "UNetMidBlock2D"
    up_block_types: tuple[str, ...] = (*["AttnUpBlock2D"] * 3, "UpBlock2D")
    block_out_channels: tuple[int, ...] = (224, 448, 672, 896)
    layers_per_block: int = 2
    mid_block_scale_factor: float = 1.0
    downsample_padding: int = 1
    downsample_type: str = "conv"
    upsample_type: str = "conv"
    dropout: float = 0.0
    act_fn: str = "silu"
    attention_head_dim: int | None = 8
    norm_num_groups: int | None = 32
    attn_norm_num_groups: int | None = None
    norm_eps: float = 1e-5
    resnet_time_scale_shift: str = "default"
    add_attention: bool = True
    class_embed_type: str | None = None
    num_class_embeds: int | None = None
    num_train_timesteps: int | None = None

    def __post_init__(self) -> None:
        self._check_lengths()
        choices: dict[str, tuple[Any, tuple[Any, ...]]] = dict(
            time_embedding_type=(self.time_embedding_type, TIMES),
            mid_block_type=(self.mid_block_type, ("UNetMidBlock2D", None)),
            downsample_type=(self.downsample_type, ("conv", "resnet")),
            upsample_type=(self.upsample_type, ("conv", "resnet")),
            class_embed_type=(self.class_embed_type, (None, "timestep", "identity")),
            resnet_time_scale_shift=(
                self.resnet_time_scale_shift,
                ("default", "scale_shift"),
            ),
        )
        for name, (value, allowed) in choices.items():
            if value not in allowed:
                raise ValueError(f"{name}={value!r}: must be one of {allowed}")
        super().__post_init__()

    def _check_lengths(self) -> None:
        for name, table in (("down_block_types", DOWN), ("up_block_types", UP)):
            types = getattr(self, name)
            if len(types) != len(self.block_out_channels):
                raise ValueError(
                    f"{len(types)} {name}: must be as many as block_out_channels, "
                    f"{len(self.block_out_channels)}"
                )
            for each in types:
                if each.removeprefix("UNetRes") not in table:
                    raise ValueError(
                        f"{each!r} of {name}: must be one of {', '.join(table)}"
                    )

    @property
    def has_labels(self) -> bool:
        """Whether a call needs labels."""
        return self.class_embed_type is not None or self.num_class_embeds is not None

    @property
    def num_labels(self) -> int | None:
        """Number of integer labels; None for a network without a table of them."""
        return self.num_class_embeds if self.class_embed_type is None else None

    @property
    def embedding_features(self) -> int:
        """Features of the embedding of time and label."""
        return self.time_embedding_dim or 4 * self.block_out_channels[0]

    def example_inputs(self) -> tuple[jax.ShapeDtypeStruct, ...]:
        """Returns shapes that the network can be initialised with."""
        side, of = 2 ** len(self.block_out_channels), jax.ShapeDtypeStruct
        inputs = (
            of((1, side, side, self.in_channels), jnp.float32),
            of((1,), jnp.float32),
        )
        if not self.has_labels:
            return inputs
        if self.class_embed_type == "identity":
            return *inputs, of((1, self.embedding_features), jnp.float32)
        return *inputs, of((1,), jnp.int32)

    @nn.compact
    def __call__(
        self,
        z: jax.Array,
        time: jax.Array,
        label: jax.Array | None = None,
        train: bool = False,
    ) -> jax.Array:
        """Computes the network's output.

        Args:
          z: [batch, height, width, in_channels].
          time: [batch], a timestep 0..999 of most; sigma, positive, for "fourier".
          label: int [batch]; an embedding [batch, time_embedding_dim] for "identity".
          train: whether to drop; needs the rng "dropout" where `dropout` > 0.

        Returns:
          [batch, height, width, out_channels].
        """
        self._check_data(z, label)
        time = time.astype(jnp.float32)
        embedding = self._embedding(time, label)
        h = Conv(self.block_out_channels[0], name="conv_in")(
            2 * z - 1 if self.center_input_sample else z
        )
        h, maps = self._down(h, z, embedding, train)
        h = self._middle(h, embedding, train)
        h, image = self._up(h, maps, embedding, train)
        groups = self.norm_num_groups or min(self.block_out_channels[0] // 4, 32)
        h = nn.silu(GroupNorm(groups, self.norm_eps, name="conv_norm_out")(h))
        h = Conv(self.out_channels, name="conv_out")(h)
        h = h if image is None else h + image
        return h / time[:, None, None, None] if self._is_fourier else h

    @property
    def _is_fourier(self) -> bool:
        return self.time_embedding_type == "fourier"

    @property
    def _shared(self) -> Shared:
        return Shared(
            self.norm_num_groups,
            self.norm_eps,
            self.act_fn,
            self.resnet_time_scale_shift == "scale_shift",
            self.attention_head_dim,
            self.dropout,
            self.downsample_padding,
        )

    def _check_data(self, z: jax.Array, label: jax.Array | None) -> None:
        multiple = 2 ** (len(self.block_out_channels) - 1)
        if z.ndim != 4 or z.shape[-1] != self.in_channels:
            raise ValueError(
                f"z of shape {z.shape}: must be [batch, height, width, "
                f"{self.in_channels}], channels last"
            )
        if any(size % multiple for size in z.shape[1:3]):
            raise ValueError(
                f"images of {z.shape[1]} x {z.shape[2]} pixels: "
                f"{len(self.block_out_channels)} levels need multiples of {multiple}"
            )
        if self.has_labels != (label is not None):
            raise ValueError(
                "a network with labels: give the label"
                if self.has_labels
                else "a label for a network without labels"
            )

    def _embedding(self, time: jax.Array, label: jax.Array | None) -> jax.Array:
        features = self.embedding_features
        waves_of = self._waves()
        embed = TimestepEmbedding(features, name="time_embedding")
        embedding = embed(waves_of(time))
        if label is None:
            return embedding
        if self.class_embed_type == "identity":
            return embedding + label
        if self.class_embed_type == "timestep":
            embed = TimestepEmbedding(features, name="class_embedding")
            return embedding + embed(waves_of(label.astype(embedding.dtype)))
        count = self.num_class_embeds or 0
        return embedding + Embedding(count, features, name="class_embedding")(label)

    def _waves(self) -> Any:
        features = self.block_out_channels[0]
        match self.time_embedding_type:
            case "fourier":
                return Fourier(features, name="time_proj")
            case "learned":
                count = self.num_train_timesteps or 0
                table = Embedding(count, features, name="time_proj")
                return lambda time: table(jnp.round(time).astype(int))
        return lambda time: sinusoids(
            time,
            features,
            cos_first=self.flip_sin_to_cos,
            frequency_shift=self.freq_shift,
        )

    def _down(
        self, h: jax.Array, image: jax.Array, time: jax.Array, train: bool
    ) -> tuple[jax.Array, list[jax.Array]]:
        maps, last = [h], len(self.block_out_channels) - 1
        for i, name in enumerate(self.down_block_types):
            level = DOWN[name.removeprefix("UNetRes")]
            resample = _resampling(level, self.downsample_type) if i < last else ""
            block = DownLevel(
                self._shared,
                level,
                self.block_out_channels[i],
                self.layers_per_block,
                resample,
                name=f"down_blocks.{i}",
            )
            h, new, image = block(h, image, time, train)
            maps += new
        return h, maps

    def _middle(self, h: jax.Array, time: jax.Array, train: bool) -> jax.Array:
        if self.mid_block_type is None:
            return h
        groups = self.norm_num_groups or min(h.shape[-1] // 4, 32)
        added = self.resnet_time_scale_shift == "default"
        attention_groups = self.attn_norm_num_groups or (groups if added else None)
        middle = Middle(
            self._shared,
            groups,
            attention_groups,
            self.add_attention,
            self.mid_block_scale_factor,
            name="mid_block",
        )
        return middle(h, time, train)

    def _up(
        self, h: jax.Array, maps: list[jax.Array], time: jax.Array, train: bool
    ) -> tuple[jax.Array, jax.Array | None]:
        image, last = None, len(self.block_out_channels) - 1
        for i, name in enumerate(self.up_block_types):
            level = UP[name.removeprefix("UNetRes")]
            resample = _resampling(level, self.upsample_type) if i < last else ""
            block = UpLevel(
                self._shared,
                level,
                self.block_out_channels[last - i],
                resample,
                self.in_channels,
                name=f"up_blocks.{i}",
            )
            taken = self.layers_per_block + 1
            h, image = block(h, maps[-taken:], image, time, train)
            maps = maps[:-taken]
        return h, image


def _resampling(level: Level, named: str) -> str:
    """Returns how a level is resampled; `named` concerns levels with attention only."""
    if level.resnet:
        return "resnet"
    return named if level.attention and not level.skip else "conv"


class Fourier(nn.Module):
    """sin and cos of `2 pi W log(time)`, W random and fixed: [batch] -> [batch, 2 n].

    Source: Song et al. 2021, arXiv 2011.13456, appendix H, with W of scale 16.
    """

    features: int

    @nn.compact
    def __call__(self, time: jax.Array) -> jax.Array:
        init = nn.initializers.normal(16.0)
        weight = self.param("weight", init, (self.features,))
        angle = jnp.log(time)[:, None] * jax.lax.stop_gradient(weight)[None]
        angle = angle * 2 * jnp.pi
        return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=-1)
