"""Residual blocks and resampling of the U-Nets and autoencoders of diffusers."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from diffusionflow.networks.layers import upsample
from diffusionflow.networks.pretrained.layers import (
    Conv,
    GroupNorm,
    Linear,
    activation,
)

FIR = (1.0, 3.0, 3.0, 1.0)
MEAN = (1.0, 1.0)


def fir_down(
    x: jax.Array, taps: tuple[float, ...] = FIR, padding: int | None = None
) -> jax.Array:
    """Halves an image with a separable filter.

    Args:
      x: [batch, height, width, channels].
      taps: of the filter along an axis, of any sum: (1, 1) is the mean of two.
      padding: pixels of zeros around x; None for those that halve it exactly.

    Source: Karras et al. 2020, arXiv 1912.04958; used by Song et al. 2021, arXiv
    2011.13456.
    """
    edge = (len(taps) - 1) // 2 if padding is None else padding
    if taps == MEAN and not edge:
        return average_down(x)
    return _fir(x, taps, 1.0, stride=2, dilation=1, padding=edge)


def fir_up(x: jax.Array, taps: tuple[float, ...] = FIR) -> jax.Array:
    """Doubles an image with a separable filter, see `fir_down`."""
    if taps == MEAN:
        return upsample(x)
    edge = len(taps) - 1 - (len(taps) - 1) // 2
    return _fir(x, taps, 2.0, stride=1, dilation=2, padding=edge)


def _fir(
    x: jax.Array,
    taps: tuple[float, ...],
    gain: float,
    *,
    stride: int,
    dilation: int,
    padding: int,
) -> jax.Array:
    """Filters each channel and each axis, `gain` times the mean an axis."""
    line = gain * np.asarray(taps) / sum(taps)
    channels, size = x.shape[-1], len(taps)
    square = np.outer(line, line)[..., None, None]
    kernel = np.broadcast_to(square, (size, size, 1, channels))
    return jax.lax.conv_general_dilated(
        x,
        jnp.asarray(kernel, x.dtype),
        window_strides=(stride, stride),
        padding=((padding, padding),) * 2,
        lhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=channels,
    )


def average_down(x: jax.Array) -> jax.Array:
    """Halves an image of even sides by means of 2 x 2 pixels."""
    batch, height, width, channels = x.shape
    blocks = x.reshape(batch, height // 2, 2, width // 2, 2, channels)
    return blocks.mean((2, 4))


RESAMPLE = {
    "": lambda x: x,
    "down": average_down,
    "up": upsample,
    "fir_down": fir_down,
    "fir_up": fir_up,
}


class ResnetBlock(nn.Module):
    """(shortcut(x) + conv2(act(norm2(conv1(act(norm1(x))) + time)))) / scale.

    With `resample` both branches are resized, the inner one before `conv1`.

    Fields:
      features: channels of the result.
      groups: of the first normalisation.
      groups_out: of the second; None for the same.
      epsilon: of both.
      act_fn: name of the activation.
      scale_shift: whether the time scales and shifts the normalised map in place of
        being added before.
      scale: divisor of the result.
      resample: a name of `RESAMPLE`.
      shortcut: whether x goes through a 1 x 1 convolution; None for where the channels
        change.
      dropout: rate before `conv2`, when training.
    """

    features: int
    groups: int
    epsilon: float
    groups_out: int | None = None
    act_fn: str = "silu"
    scale_shift: bool = False
    scale: float = 1.0
    resample: str = ""
    shortcut: bool | None = None
    dropout: float = 0.0

    @nn.compact
    def __call__(
        self, x: jax.Array, time: jax.Array | None = None, train: bool = False
    ) -> jax.Array:
        """Computes the block.

        Args:
          x: [batch, height, width, in].
          time: embedding [batch, any]; None for a block without.
          train: whether to drop.

        Returns:
          [batch, height', width', features].
        """
        act, resample = activation(self.act_fn), RESAMPLE[self.resample]
        groups_out = self.groups if self.groups_out is None else self.groups_out
        h = resample(act(GroupNorm(self.groups, self.epsilon, name="norm1")(x)))
        h = Conv(self.features, name="conv1")(h)
        norm = GroupNorm(groups_out, self.epsilon, name="norm2")
        if time is None:
            h = norm(h)
        else:
            count = 2 * self.features if self.scale_shift else self.features
            shift = Linear(count, name="time_emb_proj")(act(time))[:, None, None]
            if self.scale_shift:
                scale, shift = jnp.split(shift, 2, axis=-1)
                h = norm(h) * (1 + scale) + shift
            else:
                h = norm(h + shift)
        h = nn.Dropout(self.dropout, deterministic=not train)(act(h))
        h = Conv(self.features, name="conv2")(h)
        x, changes = resample(x), x.shape[-1] != self.features
        if changes if self.shortcut is None else self.shortcut:
            x = Conv(self.features, 1, name="conv_shortcut")(x)
        return (x + h) / self.scale


class Resample(nn.Module):
    """Halves or doubles an image around a 3 x 3 convolution named `conv`.

    Fields:
      direction: "down": a stride of 2; "up": nearest resize, then the convolution.
      padding: pixels on each side going down; 0 pads one at the end of each axis.
    """

    direction: str
    padding: int = 1

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        features = x.shape[-1]
        if self.direction == "up":
            return Conv(features, name="conv")(upsample(x))
        edge = (self.padding, self.padding) if self.padding else (0, 1)
        return Conv(features, 3, 2, edge, name="conv")(x)
