"""The U-Nets of EDM under the names of NVIDIA's files: DDPM++, NCSN++ and ADM."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from diffusionflow.networks.pretrained.edm_blocks import EDMBlock, group_norm
from diffusionflow.networks.pretrained.edm_levels import EDMUNet
from diffusionflow.networks.pretrained.layers import Conv, Linear, sinusoids
from diffusionflow.networks.pretrained.resnet import MEAN, fir_down, fir_up

CHOICES = dict(
    embedding_type=("positional", "fourier"),
    encoder_type=("standard", "skip", "residual"),
    decoder_type=("standard", "skip"),
)


class SongUNet(EDMUNet):
    """DDPM++ and NCSN++ as EDM has them; names and fields are those of its files.

    Fields:
      img_resolution: side of the images that it was trained on; it names the levels.
      in_channels: of the images.
      out_channels: of the output.
      label_dim: classes; 0 for a network without labels.
      augment_dim: features of the augmentation; 0 without.
      model_channels: of the first map.
      channel_mult: multiple of `model_channels` of each level.
      channel_mult_emb: of the embedding of time and label.
      num_blocks: residual blocks a level going down; one more going up.
      attn_resolutions: sides of the maps with attention.
      dropout: rate inside the blocks, when training.
      embedding_type: "positional", sinusoids, or "fourier", random sinusoids.
      channel_mult_noise: features of the sinusoids over `model_channels`.
      encoder_type: whether a second path feeds each level going down: "skip" from the
        image itself, "residual" through its own convolutions; "standard" for none.
      decoder_type: whether each level adds to the output, "skip"; or "standard".
      resample_filter: taps along an axis.

    Raises:
      ValueError: a name is not known; at a call, sizes that cannot be halved.

    Source: Song et al. 2021, arXiv 2011.13456, appendix H; Karras et al. 2022, arXiv
    2206.00364, table 1 and appendix F.
    """

    embedding_type: str = "positional"
    channel_mult_noise: int = 1
    encoder_type: str = "standard"
    decoder_type: str = "standard"
    resample_filter: tuple[float, ...] = MEAN

    def __post_init__(self) -> None:
        for name, allowed in CHOICES.items():
            value = getattr(self, name)
            if value not in allowed:
                raise ValueError(f"{name}={value!r}: must be one of {allowed}")
        super().__post_init__()

    @property
    def _first_channels(self) -> int:
        return self.model_channels

    def _attends(self, level: int, last: bool) -> bool:
        return last and super()._attends(level, last)

    def _block(
        self, channels: int, place: str, *, resample: str = "", attention: bool = False
    ) -> EDMBlock:
        return EDMBlock(
            channels,
            heads=int(attention),
            resample=resample,
            taps=self.resample_filter,
            project=True,
            scale=math.sqrt(0.5),
            epsilon=1e-6,
            dropout=self.dropout,
            name=place,
        )

    def _embedding(
        self, time: jax.Array, classes: jax.Array | None, augment: jax.Array | None
    ) -> jax.Array:
        features = self.channel_mult_noise * self.model_channels
        if self.embedding_type == "fourier":
            waves = LinearFourier(features // 2, name="map_noise")(time)
        else:
            waves = sinusoids(time, features, cos_first=False, frequency_shift=1)
        if classes is not None:
            classes = classes * np.sqrt(self.label_dim)
            waves = waves + Linear(features, name="map_label")(classes)
        waves = self._augmented(waves, augment)
        width = self.channel_mult_emb * self.model_channels
        hidden = nn.silu(Linear(width, name="map_layer0")(waves))
        return nn.silu(Linear(width, name="map_layer1")(hidden))

    def _joined(
        self, h: jax.Array, image: jax.Array, place: str
    ) -> tuple[jax.Array, jax.Array]:
        taps, features = self.resample_filter, h.shape[-1]
        if self.encoder_type == "skip":
            image = fir_down(image, taps)
            return h + Conv(features, 1, name=f"{place}_aux_skip")(image), image
        if self.encoder_type == "residual":  # filtered after its convolution
            edge = 1 + (len(taps) - 1) // 2
            conv = Conv(features, padding=(edge, edge), name=f"{place}_aux_residual")
            h = (h + fir_down(conv(image), taps, padding=0)) / math.sqrt(2)
            return h, h
        return h, image

    def _output(
        self, h: jax.Array, image: jax.Array | None, level: int
    ) -> jax.Array | None:
        if self.decoder_type != "skip" and level:
            return None
        place = self._place("dec", level)
        h = nn.silu(group_norm(h, 1e-6, f"{place}_aux_norm"))
        h = Conv(self.out_channels, name=f"{place}_aux_conv")(h)
        return h if image is None else h + fir_up(image, self.resample_filter)


class DhariwalUNet(EDMUNet):
    """ADM as EDM has it; names and fields are those of its files.

    Heads of the attention have 64 channels; a map of fewer has none.

    Fields:
      img_resolution: side of the images that it was trained on; it names the levels.
      in_channels: of the images.
      out_channels: of the output.
      label_dim: classes; 0 for a network without labels.
      augment_dim: features of the augmentation; 0 without.
      model_channels: features of the time.
      channel_mult: multiple of `model_channels` of each level.
      channel_mult_emb: of the embedding of time and label.
      num_blocks: residual blocks a level going down; one more going up.
      attn_resolutions: sides of the maps with attention.
      dropout: rate inside the blocks, when training.

    Raises:
      ValueError: at a call, sizes that cannot be halved.

    Source: Dhariwal & Nichol 2021, arXiv 2105.05233; Karras et al. 2022, arXiv
    2206.00364, table 1 and appendix F.
    """

    @property
    def _first_channels(self) -> int:
        return self.channel_mult[0] * self.model_channels

    def _block(
        self, channels: int, place: str, *, resample: str = "", attention: bool = False
    ) -> EDMBlock:
        return EDMBlock(
            channels,
            heads=channels // 64 if attention else 0,
            resample=resample,
            taps=MEAN,
            project=False,
            adaptive=True,
            epsilon=1e-5,
            dropout=self.dropout,
            name=place,
        )

    def _embedding(
        self, time: jax.Array, classes: jax.Array | None, augment: jax.Array | None
    ) -> jax.Array:
        features = self.model_channels
        waves = sinusoids(time, features, cos_first=True, frequency_shift=0)
        waves = self._augmented(waves, augment)
        width = self.channel_mult_emb * features
        hidden = nn.silu(Linear(width, name="map_layer0")(waves))
        embedding = Linear(width, name="map_layer1")(hidden)
        if classes is not None:
            layer = Linear(width, use_bias=False, name="map_label")
            embedding = embedding + layer(classes)
        return nn.silu(embedding)

    def _output(
        self, h: jax.Array, image: jax.Array | None, level: int
    ) -> jax.Array | None:
        if level:
            return None
        h = nn.silu(group_norm(h, 1e-5, "out_norm"))
        return Conv(self.out_channels, name="out_conv")(h)


class LinearFourier(nn.Module):
    """sin and cos of `2 pi freqs time`, freqs random and fixed: [batch, 2 n].

    Source: Song et al. 2021, arXiv 2011.13456, appendix H, with freqs of scale 16.
    """

    features: int

    @nn.compact
    def __call__(self, time: jax.Array) -> jax.Array:
        init = nn.initializers.normal(16.0)
        freqs = jax.lax.stop_gradient(self.param("freqs", init, (self.features,)))
        angle = 2 * jnp.pi * time[:, None] * freqs[None]
        return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=-1)
