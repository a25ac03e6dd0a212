"""Layers on channels-last maps, in the forms of `forms.py`.

A map is a sequence [batch, length, channels], an image [batch, height, width, channels]
or a video [batch, frames, height, width, channels]: [batch, *sizes, channels] below.

Everything is linear algebra that JAX differentiates by itself, so forward mode,
reverse mode and higher derivatives hold. Parameters are float32; `dtype` is the type
of the products; statistics are float32 whatever `dtype` is.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from diffusionflow.networks.forms import (
    add_bias,
    conv3x3,
    group_affine,
    group_means,
    repeat_pixels,
)

zeros = nn.initializers.zeros_init()
fan_in = nn.initializers.variance_scaling(1.0, "fan_in", "uniform")
Sizes = tuple[int, ...]

REMAT = (
    "",
    "nothing_saveable",
    "dots_saveable",
    "dots_with_no_batch_dims_saveable",
)


def check_remat(policy: str) -> None:
    """Raises ValueError unless `policy` is one of `REMAT`."""
    if policy not in REMAT:
        raise ValueError(f"remat={policy!r}: must be one of {', '.join(REMAT[1:])}, ''")


def rematerialized(
    block: type[nn.Module], policy: str, static: tuple[int, ...] = ()
) -> type[nn.Module]:
    """Returns a block that recomputes its activations in the backward pass.

    Its parameters and its values are the same.

    Args:
      block: a module class; give its instances names, or they get other ones.
      policy: which values are stored, a name of `jax.checkpoint_policies` in `REMAT`;
        with "" all that the gradient needs, which leaves the class as it is.
      static: places of arguments that are no arrays, counted from 1.

    Raises:
      ValueError: the policy is unknown.
    """
    check_remat(policy)
    if not policy:
        return block
    stored = getattr(jax.checkpoint_policies, policy)
    return nn.remat(block, policy=stored, static_argnums=static)


def check_dimensions(z: jax.Array) -> None:
    """Raises ValueError unless z has one to three axes between batch and channels."""
    if not 3 <= z.ndim <= 5:
        raise ValueError(
            f"z of shape {z.shape}: must be [batch, length, channels], [batch, height, "
            "width, channels] or [batch, frames, height, width, channels]; vectors "
            "[batch, features] are for `ResidualMLP`"
        )


def upsample(x: jax.Array) -> jax.Array:
    """Doubles the size on each axis between batch and channels by nearest resize."""
    for axis in range(1, x.ndim - 1):
        x = x.repeat(2, axis=axis)
    return x


class Conv3x3(nn.Module):
    """`conv3x3` with bias: [batch, *sizes, in] -> [batch, *sizes', features]."""

    features: int
    stride: int = 1
    dtype: DTypeLike = jnp.float32
    kernel_init: nn.initializers.Initializer = fan_in

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (*(3,) * (x.ndim - 2), x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape)
        bias = self.param("bias", zeros, (self.features,))
        y = conv3x3(x.astype(self.dtype), kernel.astype(self.dtype), self.stride)
        return add_bias(y, bias)


class Pointwise(nn.Module):
    """The same affine map at every pixel: [..., in] -> [..., features]."""

    features: int
    dtype: DTypeLike = jnp.float32
    kernel_init: nn.initializers.Initializer = fan_in

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.param("kernel", self.kernel_init, (x.shape[-1], self.features))
        bias = self.param("bias", zeros, (self.features,))
        # one flat axis: XLA transposes and copies for a contraction over several
        y = x.reshape(-1, x.shape[-1]).astype(self.dtype) @ kernel.astype(self.dtype)
        return add_bias(y, bias).reshape(*x.shape[:-1], self.features)


def num_groups(channels: int) -> int:
    """Finds the largest divisor of `channels` up to 32 leaving 4 channels a group."""
    most = max(1, min(32, channels // 4))
    return max(n for n in range(1, most + 1) if channels % n == 0)


class GroupNorm(nn.Module):
    """Group normalisation as one multiply-add per element, in float32.

    y = x a + b with a = (1 + film_scale) gamma / std and
    b = (1 + film_scale) (beta - gamma mean / std) + film_shift, both
    [batch, channels].

    Source: Wu & He, Group Normalization, arXiv:1803.08494, equations 1-3.
    """

    epsilon: float = 1e-6

    @nn.compact
    def __call__(self, x: jax.Array, film: jax.Array | None = None) -> jax.Array:
        """Normalises and, where `film` is given, scales and shifts each channel.

        Args:
          x: [batch, *sizes, channels].
          film: float32 [batch, 2 channels], scales then shifts, or None.

        Returns:
          [batch, *sizes, channels], float32.
        """
        channels = x.shape[-1]
        gamma = self.param("scale", nn.initializers.ones_init(), (channels,))
        beta = self.param("bias", zeros, (channels,))
        x = x.astype(jnp.float32)
        mean, square = group_means(x, num_groups(channels))
        variance = jnp.maximum(square - mean * mean, 0.0)
        inverse = jax.lax.rsqrt(variance + self.epsilon)
        scale, shift = group_affine(mean, inverse, gamma, beta)
        if film is not None:
            film_scale, film_shift = jnp.split(film, 2, axis=-1)
            scale = scale * (1 + film_scale)
            shift = shift * (1 + film_scale) + film_shift
        return x * repeat_pixels(scale, x) + repeat_pixels(shift, x)
