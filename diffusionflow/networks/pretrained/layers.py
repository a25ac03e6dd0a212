"""Layers whose parameters have the names and layouts of PyTorch's state dicts.

A kernel of a convolution is [out, in, height, width], a matrix [out, in], and a module
is named as in the published file, `down_blocks.0`: the path of a parameter, joined by
dots, is its name there, and reading weights moves and transposes nothing. Images are
channels last, [batch, height, width, channels].
"""

import math
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from diffusionflow.networks.forms import attend

ones, zeros = nn.initializers.ones_init(), nn.initializers.zeros_init()
# PyTorch's default: uniform within 1 / sqrt(fan in)
fan_in = nn.initializers.variance_scaling(
    1 / 3, "fan_in", "uniform", in_axis=1, out_axis=0
)
ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "silu": nn.silu,
    "swish": nn.silu,
    "gelu": lambda x: nn.gelu(x, approximate=False),
    "mish": lambda x: x * jnp.tanh(nn.softplus(x)),
    "relu": nn.relu,
}


def activation(name: str) -> Callable[[jax.Array], jax.Array]:
    """Returns the activation function of a name of diffusers.

    Raises:
      ValueError: the name is not in `ACTIVATIONS`.
    """
    if name not in ACTIVATIONS:
        raise ValueError(f"act_fn={name!r}: must be one of {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]


class Linear(nn.Module):
    """Affine map [..., in] -> [..., features] with the matrix [features, in]."""

    features: int
    use_bias: bool = True

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        weight = self.param("weight", fan_in, (self.features, x.shape[-1]))
        y = jnp.einsum("...i,oi->...o", x, weight)
        if self.use_bias:
            y = y + _row(self.param("bias", zeros, (self.features,)), y)
        return y


class Conv(nn.Module):
    """Convolution of images with a square kernel [features, in, size, size]."""

    features: int
    size: int = 3
    stride: int = 1
    padding: tuple[int, int] | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Convolves x: [batch, height, width, in].

        Padding None keeps the size at stride 1.
        """
        shape = (self.features, x.shape[-1], self.size, self.size)
        weight = self.param("weight", fan_in, shape)
        edge = self.padding or (self.size // 2, self.size // 2)
        y = jax.lax.conv_general_dilated(
            x,
            weight,
            window_strides=(self.stride, self.stride),
            padding=(edge, edge),
            dimension_numbers=("NHWC", "OIHW", "NHWC"),
        )
        return y + _row(self.param("bias", zeros, (self.features,)), y)


class GroupNorm(nn.Module):
    """Group normalisation of [batch, ..., channels], statistics in float32.

    Raises `ValueError` if the number of groups does not divide the channels.
    """

    groups: int
    epsilon: float

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        channels = x.shape[-1]
        if channels % self.groups:
            raise ValueError(
                f"norm_num_groups={self.groups}: must divide {channels} channels"
            )
        grouped = x.reshape(x.shape[0], -1, self.groups, channels // self.groups)
        y = _standardized(grouped, (1, 3), self.epsilon).reshape(x.shape)
        weight = self.param("weight", ones, (channels,))
        bias = self.param("bias", zeros, (channels,))
        return y * _row(weight, y) + _row(bias, y)


class LayerNorm(nn.Module):
    """Layer normalisation of [..., channels], with or without an affine map."""

    epsilon: float
    affine: bool = True

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = _standardized(x, (x.ndim - 1,), self.epsilon)
        if not self.affine:
            return y
        weight = self.param("weight", ones, (x.shape[-1],))
        bias = self.param("bias", zeros, (x.shape[-1],))
        return y * _row(weight, y) + _row(bias, y)


class Embedding(nn.Module):
    """Table [count, features] of integers; an index outside gives NaN."""

    count: int
    features: int

    @nn.compact
    def __call__(self, index: jax.Array) -> jax.Array:
        init = nn.initializers.normal(1.0)
        table = self.param("weight", init, (self.count, self.features))
        index = jnp.where(index < 0, self.count, index)  # else counted from the end
        return jnp.take(table, index, axis=0, mode="fill")


class TimestepEmbedding(nn.Module):
    """`linear_2(act(linear_1(x)))`."""

    features: int
    act_fn: str = "silu"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        hidden = activation(self.act_fn)(Linear(self.features, name="linear_1")(x))
        return Linear(self.features, name="linear_2")(hidden)


class Attention(nn.Module):
    """(x + to_out(attention(group_norm(x)))) / scale between the pixels of an image.

    Fields:
      head_features: channels of a head; the channels must be a multiple of it.
      groups: of the normalisation, None for none.
      epsilon: of the normalisation.
      scale: divisor of the result.
    """

    head_features: int
    groups: int | None
    epsilon: float
    scale: float = 1.0

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Applies attention to x: [batch, height, width, channels]; keeps the shape."""
        batch, height, width, channels = x.shape
        if channels % self.head_features:
            raise ValueError(
                f"attention_head_dim={self.head_features}: must divide {channels} "
                "channels"
            )
        y = x.reshape(batch, height * width, channels)
        if self.groups is not None:
            y = GroupNorm(self.groups, self.epsilon, name="group_norm")(y)
        y = self_attention(y, channels // self.head_features)
        return (x + y.reshape(x.shape)) / self.scale


def self_attention(x: jax.Array, heads: int, *, use_bias: bool = True) -> jax.Array:
    """Applies attention between tokens with maps `to_q`, `to_k`, `to_v`, `to_out.0`.

    Args:
      x: [batch, tokens, channels].
      heads: their number; it must divide the channels.
      use_bias: whether the maps of query, key and value have a bias.

    Returns:
      [batch, tokens, channels], inside the module that calls it.
    """
    batch, tokens, channels = x.shape
    query, key, value = (
        Linear(channels, use_bias, name=name)(x).reshape(batch, tokens, heads, -1)
        for name in ("to_q", "to_k", "to_v")
    )
    y = attend(query, key, value).reshape(x.shape)
    return Linear(channels, name="to_out.0")(y)


def sinusoids(
    time: jax.Array, features: int, *, cos_first: bool, frequency_shift: float
) -> jax.Array:
    """Computes sinusoids of a timestep, `sin(time w_k)` and `cos(time w_k)`.

    `w_k = 10000^(-k / (n - frequency_shift))`, k = 0..n-1, n = features // 2; an odd
    number of features ends with a zero.

    Args:
      time: [batch], as the network was trained on: 0..999 of most.
      features: their number.
      cos_first: whether the cosines come first.
      frequency_shift: 1 of DDPM, 0 of most others.

    Returns:
      [batch, features].

    Source: Ho et al. 2020, arXiv 2006.11239; the order and the shift are options of
    diffusers.
    """
    half = features // 2
    exponent = -math.log(10000) * np.arange(half) / (half - frequency_shift)
    angle = time[:, None] * np.exp(exponent).astype(np.float32)[None]
    waves = [jnp.sin(angle), jnp.cos(angle)]
    rest = jnp.zeros((*time.shape, features % 2), angle.dtype)
    return jnp.concatenate([*(waves[::-1] if cos_first else waves), rest], axis=-1)


def _standardized(x: jax.Array, axes: tuple[int, ...], epsilon: float) -> jax.Array:
    """Normalises to zero mean and unit variance over `axes`."""
    x = x.astype(jnp.float32)
    centred = x - x.mean(axes, keepdims=True)
    variance = (centred * centred).mean(axes, keepdims=True)
    return centred * jax.lax.rsqrt(variance + epsilon)


def _row(vector: jax.Array, like: jax.Array) -> jax.Array:
    return vector.reshape((1,) * (like.ndim - 1) + vector.shape)
