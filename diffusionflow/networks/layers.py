"""Layers on channels-last maps that are fast on a CPU and plain on an accelerator.

A map is a sequence [batch, length, channels], an image [batch, height, width, channels]
or a video [batch, frames, height, width, channels]: [batch, *sizes, channels] below.

Everything is linear algebra that JAX differentiates by itself, so forward mode,
reverse mode and higher derivatives hold. Parameters are float32; `dtype` is the type
of the products; statistics are float32 whatever `dtype` is.
"""

import itertools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

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


def conv3x3(x: jax.Array, kernel: jax.Array, stride: int = 1) -> jax.Array:
    """Zero-padded convolution (correlation) with 3 taps on each axis, 3x3 for images.

    There is one pixel of padding on each side.

    Args:
      x: [batch, *sizes, in], one to three sizes.
      kernel: [3, .., 3, in, out], a 3 for each size.
      stride: of the output pixels, on each axis.

    Returns:
      [batch, *ceil(sizes / stride), out].
    """
    sizes = x.shape[1:-1]
    if _is_narrow(sizes):
        return _banded(x, kernel)[:, *(slice(None, None, stride) for _ in sizes)]
    letters = "DHW"[-len(sizes) :]
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(stride,) * len(sizes),
        padding=((1, 1),) * len(sizes),
        dimension_numbers=(f"N{letters}C", f"{letters}IO", f"N{letters}C"),
    )


def _is_narrow(sizes: tuple[int, ...]) -> bool:
    """Whether XLA's CPU convolution is a scalar loop, 17 times slower at 2x2.

    In three dimensions the number of pixels decides: two frames of large images would
    make a banded matrix that is larger than they are.
    """
    return math.prod(sizes) < 3**3 if len(sizes) == 3 else min(sizes) < 3


def _banded(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Computes `conv3x3` row by row, as a product with the kernel's banded matrix."""
    batch, *lines, width, _ = x.shape
    bands = np.stack([np.eye(width, k=1 - tap) for tap in range(3)])
    matrix = jnp.einsum("...jcn,jio->...icon", kernel, bands.astype(kernel.dtype))
    matrix = matrix.reshape(-1, width * kernel.shape[-1])
    padding = ((0, 0), *((1, 1) for _ in lines), (0, 0))
    rows = jnp.pad(x.reshape(batch, *lines, -1), padding)
    shifted = [
        rows[:, *(slice(i, i + n) for i, n in zip(taps, lines, strict=True))]
        for taps in itertools.product(range(3), repeat=len(lines))
    ]
    rows = jnp.concatenate(shifted, axis=-1)
    y = rows.reshape(batch * math.prod(lines), -1) @ matrix
    return y.reshape(batch, *lines, width, -1)


def upsample(x: jax.Array) -> jax.Array:
    """Nearest resize to twice the size on each axis between batch and channels."""
    for axis in range(1, x.ndim - 1):
        x = x.repeat(2, axis=axis)
    return x


def repeat_rows(bias: jax.Array, like: jax.Array) -> jax.Array:
    """Repeats [out] to the shape of `like`, [..., out].

    Written as a product with ones, so that its gradient is a product too: XLA's CPU
    reduction to [out] is up to 20 times slower.
    """
    ones = jnp.ones(like.size // like.shape[-1], bias.dtype)
    return jnp.einsum("m,c->mc", ones, bias).reshape(like.shape)


def repeat_pixels(x: jax.Array, like: jax.Array) -> jax.Array:
    """Repeats [batch, channels] to the shape of `like`, [batch, *sizes, channels]."""
    ones = jnp.ones((x.shape[0], math.prod(like.shape[1:-1])), x.dtype)
    return jnp.einsum("bp,bc->bpc", ones, x).reshape(like.shape)


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
        return y + repeat_rows(bias.astype(self.dtype), y)


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
        y = y + repeat_rows(bias.astype(self.dtype), y)
        return y.reshape(*x.shape[:-1], self.features)


def attend(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
    """Attention: softmax(query key^T / sqrt(features)) value, softmax in float32.

    Args:
      query: [batch, tokens, heads, features].
      key: the same shape.
      value: the same shape.

    Returns:
      [batch, tokens, heads, features], of the type of `value`.
    """
    scale = query.shape[-1] ** -0.5
    logits = jnp.einsum(
        "bqhf,bkhf->bhqk", query * scale, key, preferred_element_type=jnp.float32
    )
    weights = jax.nn.softmax(logits, axis=-1).astype(value.dtype)
    return jnp.einsum("bhqk,bkhf->bqhf", weights, value)


def num_groups(channels: int) -> int:
    """The largest divisor of `channels` up to 32 that leaves 4 channels a group."""
    most = max(1, min(32, channels // 4))
    return max(n for n in range(1, most + 1) if channels % n == 0)


class GroupNorm(nn.Module):
    """Group normalisation as one multiply-add per element, in float32.

    y = x a + b with a = (1 + film_scale) gamma / std and
    b = (1 + film_scale) (beta - gamma mean / std) + film_shift, both
    [batch, channels]. Groups are spread over channels by a product with a one-hot
    matrix: its result is stored, where a repeat would be redone for every element.

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
        batch, *sizes, channels = x.shape
        groups = num_groups(channels)
        gamma = self.param("scale", nn.initializers.ones_init(), (channels,))
        beta = self.param("bias", zeros, (channels,))
        x = x.astype(jnp.float32)
        grouped = x.reshape(batch, math.prod(sizes), groups, channels // groups)
        mean = grouped.mean((1, 3))
        variance = jnp.maximum((grouped * grouped).mean((1, 3)) - mean * mean, 0.0)
        inverse = jax.lax.rsqrt(variance + self.epsilon)
        spread = jnp.repeat(jnp.eye(groups), channels // groups, axis=1) * gamma[None]
        scale = inverse @ spread
        terms = jnp.concatenate([-mean * inverse, jnp.ones((batch, 1))], axis=1)
        shift = terms @ jnp.concatenate([spread, beta[None]])
        if film is not None:
            film_scale, film_shift = jnp.split(film, 2, axis=-1)
            scale = scale * (1 + film_scale)
            shift = shift * (1 + film_scale) + film_shift
        return x * repeat_pixels(scale, x) + repeat_pixels(shift, x)
