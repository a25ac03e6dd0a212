"""Operations of networks that have one form on a CPU and another on an accelerator.

A map is [batch, *sizes, channels] with one to three sizes. Both forms have the same
values and gradients to rounding, and forward mode, reverse mode and higher derivatives;
fused attention alone has no forward mode. `platform.target` says which form is taken.
"""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np

from diffusionflow.networks.platform import takes_fused_attention, target

KEYS_FIRST = 64  # tokens from which on a CPU has the keys before the queries


def conv3x3(x: jax.Array, kernel: jax.Array, stride: int = 1) -> jax.Array:
    """Applies zero-padded convolution (correlation), 3 taps an axis, 3x3 for images.

    There is one pixel of padding on each side.

    Args:
      x: [batch, *sizes, in], one to three sizes.
      kernel: [3, .., 3, in, out], a 3 for each size.
      stride: of the output pixels, on each axis.

    Returns:
      [batch, *ceil(sizes / stride), out].
    """
    sizes = x.shape[1:-1]
    if target().is_cpu and _is_narrow(sizes):
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
    """Returns whether XLA's CPU convolution is a scalar loop, 17 times slower at 2x2.

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


def add_bias(y: jax.Array, bias: jax.Array) -> jax.Array:
    """Computes y + bias for y [..., out] and bias [out], of the type of y.

    On a CPU a product with ones repeats the bias, so that its gradient is a product
    too: XLA's CPU reduction to [out] is up to 20 times slower. Elsewhere it is a
    broadcast, whose gradient is summed in the type of the bias.
    """
    if not target().is_cpu:
        return y + jnp.broadcast_to(bias, y.shape).astype(y.dtype)
    ones = jnp.ones(y.size // y.shape[-1], y.dtype)
    return y + jnp.einsum("m,c->mc", ones, bias.astype(y.dtype)).reshape(y.shape)


def repeat_pixels(x: jax.Array, like: jax.Array) -> jax.Array:
    """Repeats [batch, channels] to the shape of `like`, [batch, *sizes, channels].

    On a CPU by a product with ones, as in `add_bias`.
    """
    batch, *sizes, channels = like.shape
    if not target().is_cpu:
        shape = (batch, *(1 for _ in sizes), channels)
        return jnp.broadcast_to(x.reshape(shape), like.shape)
    ones = jnp.ones((batch, math.prod(sizes)), x.dtype)
    return jnp.einsum("bp,bc->bpc", ones, x).reshape(like.shape)


def group_means(x: jax.Array, groups: int) -> tuple[jax.Array, jax.Array]:
    """Computes the means of x and of x^2 over each group of channels and all pixels.

    On a CPU pixels are summed first and the channels of a group then by a product: a
    reduction over both at once is slow there.

    Args:
      x: [batch, *sizes, channels].
      groups: number of groups, a divisor of the channels.

    Returns:
      Both [batch, groups].
    """
    batch, *sizes, channels = x.shape
    pixels, each = math.prod(sizes), channels // groups
    if not target().is_cpu:
        grouped = x.reshape(batch, pixels, groups, each)
        return grouped.mean((1, 3)), (grouped * grouped).mean((1, 3))
    flat = x.reshape(batch, pixels, channels)
    share = jnp.repeat(jnp.eye(groups, dtype=x.dtype), each, axis=1).T / (pixels * each)
    return flat.sum(1) @ share, (flat * flat).sum(1) @ share


def group_affine(
    mean: jax.Array, inverse: jax.Array, gamma: jax.Array, beta: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Computes a, b of `gamma (x - mean) inverse + beta = a x + b` by channel.

    On a CPU groups are spread over channels by a product with a one-hot matrix: its
    result is stored, where a repeat would be redone for every element.

    Args:
      mean: of each group, [batch, groups].
      inverse: 1 / standard deviation of each group, [batch, groups].
      gamma: [channels].
      beta: [channels].

    Returns:
      a and b, both [batch, channels].
    """
    (batch, groups), (channels,) = mean.shape, gamma.shape
    if not target().is_cpu:
        spread_fn = lambda x: jnp.repeat(x, channels // groups, axis=1) * gamma[None]
        return spread_fn(inverse), spread_fn(-mean * inverse) + beta[None]
    spread = jnp.repeat(jnp.eye(groups), channels // groups, axis=1) * gamma[None]
    terms = jnp.concatenate([-mean * inverse, jnp.ones((batch, 1))], axis=1)
    return inverse @ spread, terms @ jnp.concatenate([spread, beta[None]])


def attend(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
    """Computes attention, softmax(query key^T / sqrt(features)) value; float32 softmax.

    By cuDNN's kernels where `platform.fused_attention` lets it. On a CPU the logits of
    `KEYS_FIRST` tokens or more are [batch, heads, keys, queries]: the softmax over the
    keys then adds whole rows, which is faster there.

    Args:
      query: [batch, tokens, heads, features].
      key: the same shape.
      value: the same shape.

    Returns:
      [batch, tokens, heads, features], of the type of `value`.
    """
    if takes_fused_attention(query):
        return jax.nn.dot_product_attention(query, key, value, implementation="cudnn")
    query = query * query.shape[-1] ** -0.5
    product_fn = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)
    if target().is_cpu and query.shape[1] >= KEYS_FIRST:
        logits = product_fn("bkhf,bqhf->bhkq", key, query)
        weights = jax.nn.softmax(logits, axis=-2).astype(value.dtype)
        return jnp.einsum("bhkq,bkhf->bqhf", weights, value)
    logits = product_fn("bqhf,bkhf->bhqk", query, key)
    weights = jax.nn.softmax(logits, axis=-1).astype(value.dtype)
    return jnp.einsum("bhqk,bkhf->bqhf", weights, value)
