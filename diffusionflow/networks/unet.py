"""The U-Net: (z, time, label, vector) -> an array like z."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from diffusionflow._dataclass import check_count
from diffusionflow.networks.embedding import ConditionalNetwork
from diffusionflow.networks.forms import attend
from diffusionflow.networks.layers import (
    Conv3x3,
    GroupNorm,
    Pointwise,
    Sizes,
    check_dimensions,
    fan_in,
    rematerialized,
    upsample,
    zeros,
)


class ResidualBlock(nn.Module):
    """x + conv(drop(silu(film(norm(conv(silu(norm(x)))))))), zero conv at first.

    Where the number of channels changes, x goes through a pointwise map.
    """

    features: int
    dropout: float
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: jax.Array, vector: jax.Array, train: bool) -> jax.Array:
        """Applies the block to x: [batch, *sizes, in] and vector: [batch, any].

        Returns [..., features].
        """
        h = nn.silu(GroupNorm(name="norm_in")(x))
        h = Conv3x3(self.features, dtype=self.dtype, name="conv_in")(h)
        film = nn.Dense(2 * self.features, kernel_init=fan_in, name="film")(vector)
        h = nn.silu(GroupNorm(name="norm_out")(h, film))
        h = nn.Dropout(self.dropout, deterministic=not train)(h)
        conv = Conv3x3(
            self.features, dtype=self.dtype, kernel_init=zeros, name="conv_out"
        )
        if x.shape[-1] != self.features:
            x = Pointwise(self.features, self.dtype, name="skip")(x)
        return x + conv(h)


class SelfAttention(nn.Module):
    """x + attention between the pixels of norm(x); the output map is zero at first.

    Softmax is float32. Raises `ValueError` if the heads do not divide the channels.
    """

    num_heads: int
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Applies attention to x: [batch, *sizes, channels]; keeps the shape."""
        batch, *sizes, channels = x.shape
        if channels % self.num_heads:
            raise ValueError(
                f"num_heads={self.num_heads} does not divide {channels} channels: must "
                "be a divisor of them"
            )
        parts = self.num_heads, channels // self.num_heads
        heads = (batch, math.prod(sizes), *parts)
        y = GroupNorm(name="norm")(x)
        query, key, value = (
            Pointwise(channels, self.dtype, name=name)(y).reshape(heads)
            for name in ("query", "key", "value")
        )
        y = self.attend(query, key, value, tuple(sizes)).reshape(x.shape)
        return x + Pointwise(channels, self.dtype, zeros, name="out")(y)

    def attend(
        self, query: jax.Array, key: jax.Array, value: jax.Array, sizes: Sizes
    ) -> jax.Array:
        """Calls `forms.attend`; a method, so that `perturbed` finds it."""
        del sizes
        return attend(query, key, value)


class UNet(ConditionalNetwork):
    """U-Net: residual blocks down to small maps and up again, with skip connections.

    It takes sequences [batch, length, channels], images [batch, height, width,
    channels] and videos [batch, frames, height, width, channels]. Parameters have the
    same names in each; only the kernels of convolutions have other shapes.

    Level i has `multipliers[i] * channels` channels on maps 2^i times smaller, in each
    dimension. A convolution of 3 taps an axis and stride 2 leads down; nearest resize
    and such a convolution of stride 1 lead up; every map of the way down is
    concatenated once on the way up. Attention is between all pixels of a map.
    Parameters are float32 and the output has the type of z.

    Source: Ho et al., arXiv:2006.11239, appendix B, with the scale-and-shift
    conditioning of Dhariwal & Nichol, arXiv:2105.05233, section 3.

    Fields:
      channels: at full resolution, as channels of the first level for multiplier 1.
      multipliers: of the channels, one a level.
      num_blocks: residual blocks a level going down; one more going up.
      attention_resolutions: shortest sides of the maps whose blocks attend, frames
        included; the middle of the network always does.
      num_heads: of the attention.
      dropout: rate inside the blocks, when training.
      num_classes: labels are 0..num_classes-1; 0 makes the network unconditional.
      vector_features: of a vector to condition on, such as a text's; 0 for none.
      max_frequency: the highest of the sinusoids of the time, in radians; 8 to 16 for
        networks of two times.
      two_times: whether the network takes a second time, see `ConditionalNetwork`.
      dtype: of convolutions and products, "float32" or "bfloat16".
      remat: what the blocks store for the gradient, see `layers.rematerialized`; the
        rest is computed twice. Empty for all that it needs.
      time_features: sinusoids of the time, an even number; None for 4 `channels`.

    Raises:
      ValueError: `max_frequency` is not positive, or `time_features` no even number. At
        a call: the data do not have one to three dimensions, or a size cannot be
        halved `len(multipliers) - 1` times.
    """

    channels: int = 64
    multipliers: tuple[int, ...] = (1, 2)
    num_blocks: int = 2
    attention_resolutions: tuple[int, ...] = ()
    num_heads: int = 4
    dropout: float = 0.0
    dtype: DTypeLike = "float32"
    remat: str = ""
    time_features: int | None = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        count = self.time_features
        if count is not None:
            check_count("time_features", count, least=2)
            if count % 2:
                raise ValueError(
                    f"time_features={count}: must be even, a cosine and a sine for "
                    "each frequency; or None, for 4 channels"
                )
        super().__post_init__()

    @property
    def conditioning_features(self) -> int:
        return 4 * self.channels

    def predict(self, z: jax.Array, vector: jax.Array, train: bool) -> jax.Array:
        h = Conv3x3(self.channels, dtype=self.dtype, name="conv_in")(z)
        h, skips = self._down(h, vector, train)
        h = self._block(h, h.shape[-1], vector, train, "middle_in")
        h = self._attention("middle_attention")(h)
        h = self._block(h, h.shape[-1], vector, train, "middle_out")
        h = self._up(h, skips, vector, train)
        h = nn.silu(GroupNorm(name="norm_out")(h))
        conv = Conv3x3(
            z.shape[-1], dtype=self.dtype, kernel_init=zeros, name="conv_out"
        )
        return conv(h).astype(z.dtype)

    def check_data(self, z: jax.Array) -> None:
        check_dimensions(z)
        sizes = z.shape[1:-1]
        multiple = 2 ** (len(self.multipliers) - 1)
        if any(size % multiple for size in sizes):
            raise ValueError(
                f"data of {' x '.join(map(str, sizes))} pixels: {len(self.multipliers)}"
                f" levels need sizes that are multiples of {multiple}: crop or pad the "
                "data, or give fewer `multipliers`"
            )

    def _down(
        self, h: jax.Array, vector: jax.Array, train: bool
    ) -> tuple[jax.Array, list[jax.Array]]:
        skips = [h]
        for level, multiplier in enumerate(self.multipliers):
            if level:
                name = f"down_{level}"
                h = Conv3x3(h.shape[-1], 2, dtype=self.dtype, name=name)(h)
                skips.append(h)
            for i in range(self.num_blocks):
                name = f"encoder_{level}_{i}"
                h = self._attend(h, multiplier, vector, train, name)
                skips.append(h)
        return h, skips

    def _up(
        self, h: jax.Array, skips: list[jax.Array], vector: jax.Array, train: bool
    ) -> jax.Array:
        for level, multiplier in reversed(list(enumerate(self.multipliers))):
            for i in range(self.num_blocks + 1):
                h = jnp.concatenate([h, skips.pop()], axis=-1)
                name = f"decoder_{level}_{i}"
                h = self._attend(h, multiplier, vector, train, name)
            if level:
                conv = Conv3x3(h.shape[-1], dtype=self.dtype, name=f"up_{level}")
                h = conv(upsample(h))
        return h

    def _block(
        self, h: jax.Array, features: int, vector: jax.Array, train: bool, name: str
    ) -> jax.Array:
        kind = rematerialized(ResidualBlock, self.remat, static=(3,))
        block = kind(features, self.dropout, self.dtype, name=name)
        return block(h, vector, train)

    def _attention(self, name: str) -> nn.Module:
        kind = rematerialized(SelfAttention, self.remat)
        return kind(self.num_heads, self.dtype, name=name)

    def _attend(
        self, h: jax.Array, multiplier: int, vector: jax.Array, train: bool, name: str
    ) -> jax.Array:
        h = self._block(h, multiplier * self.channels, vector, train, name)
        if min(h.shape[1:-1]) not in self.attention_resolutions:
            return h
        return self._attention(f"{name}_attention")(h)
