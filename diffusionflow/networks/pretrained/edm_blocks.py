"""The block of EDM's U-Nets: residual, resampling and attention in one."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from diffusionflow.networks.forms import attend
from diffusionflow.networks.pretrained.layers import Conv, GroupNorm, Linear
from diffusionflow.networks.pretrained.resnet import MEAN, fir_down, fir_up


def group_norm(x: jax.Array, epsilon: float, name: str) -> jax.Array:
    """Normalises groups of at least 4 channels, at most 32 groups."""
    return GroupNorm(min(32, x.shape[-1] // 4), epsilon, name=name)(x)


class EDMBlock(nn.Module):
    """scale (skip(x) + conv1(act(norm1(conv0(act(norm0(x))) + affine(embedding))))).

    Where `adaptive`, the embedding scales and shifts the normalised map instead of
    being added before. With heads, `h = scale (h + proj(attention(norm2(h))))` follows.

    Fields:
      features: channels of the result.
      heads: of the attention; 0 for none.
      resample: "", "down" or "up"; both branches are resized, the inner one before
        `conv0`.
      taps: of the filter that resizes.
      project: whether a resized x goes through a 1 x 1 convolution also where the
        channels stay.
      adaptive: see above.
      scale: of the sums.
      epsilon: of the normalisations.
      dropout: rate before `conv1`, when training.

    Raises:
      ValueError: at a call, heads that do not divide the channels.
    """

    features: int
    heads: int = 0
    resample: str = ""
    taps: tuple[float, ...] = MEAN
    project: bool = False
    adaptive: bool = False
    scale: float = 1.0
    epsilon: float = 1e-5
    dropout: float = 0.0

    @nn.compact
    def __call__(
        self, x: jax.Array, embedding: jax.Array, train: bool = False
    ) -> jax.Array:
        """Applies the block to x [batch, height, width, in]; embedding [batch, any]."""
        h = self._resized(nn.silu(group_norm(x, self.epsilon, "norm0")))
        h = Conv(self.features, name="conv0")(h)
        count = 2 * self.features if self.adaptive else self.features
        affine = Linear(count, name="affine")(embedding)[:, None, None]
        if self.adaptive:
            scale, shift = jnp.split(affine, 2, axis=-1)
            h = group_norm(h, self.epsilon, "norm1") * (1 + scale) + shift
        else:
            h = group_norm(h + affine, self.epsilon, "norm1")
        h = nn.Dropout(self.dropout, deterministic=not train)(nn.silu(h))
        h = Conv(self.features, name="conv1")(h)
        changes = x.shape[-1] != self.features
        x = self._resized(x)
        if changes or (self.resample and self.project):
            x = Conv(self.features, 1, name="skip")(x)
        h = (h + x) * self.scale
        return (h + self._attention(h)) * self.scale if self.heads else h

    def _resized(self, x: jax.Array) -> jax.Array:
        if not self.resample:
            return x
        return (fir_down if self.resample == "down" else fir_up)(x, self.taps)

    def _attention(self, h: jax.Array) -> jax.Array:
        batch, height, width, channels = h.shape
        if channels % self.heads:
            raise ValueError(f"{self.heads} heads must divide {channels} channels")
        y = Conv(3 * channels, 1, name="qkv")(group_norm(h, self.epsilon, "norm2"))
        # query, key and value of a channel stand side by side
        y = y.reshape(batch, height * width, self.heads, channels // self.heads, 3)
        y = attend(*(y[..., i] for i in range(3))).reshape(h.shape)
        return Conv(channels, 1, name="proj")(y)
