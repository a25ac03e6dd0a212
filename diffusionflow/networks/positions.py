"""Positional embeddings on a 2-D grid: sinusoidal and rotary (RoPE).

The tables are constants of the grid, so they are made on the host.
"""

import jax
import jax.numpy as jnp
import numpy as np


def places(height: int, width: int) -> np.ndarray:
    """Returns row and column of each token, row by row: [height * width, 2]."""
    return np.stack(np.mgrid[:height, :width], axis=-1).reshape(-1, 2)


def angles(places: np.ndarray, count: int, base: float) -> np.ndarray:
    """Computes `place base^(-k / count)` for k = 0..count-1, rows then columns.

    Args:
      places: [tokens, 2].
      count: frequencies for each of row and column.
      base: the slowest frequency is about 1 / base.

    Returns:
      float64 [tokens, 2 count].
    """
    frequencies = float(base) ** (-np.arange(count) / count)
    return (places[:, :, None] * frequencies).reshape(len(places), 2 * count)


def sinusoids(places: np.ndarray, features: int) -> np.ndarray:
    """Sinusoidal embedding, to be added: [tokens, features].

    Sines and cosines of `angles` with base 10000.

    Args:
      places: [tokens, 2].
      features: a multiple of 4.

    Source: Vaswani et al., arXiv:1706.03762, section 3.5; half of the features for
    each axis as in Peebles & Xie, arXiv:2212.09748.
    """
    turned = angles(places, features // 4, 10_000.0)
    return np.concatenate([np.sin(turned), np.cos(turned)], axis=-1).astype(np.float32)


def rotate(x: jax.Array, places: np.ndarray) -> jax.Array:
    """Applies RoPE: rotates pairs of features by `angles` with base 100.

    The product of a query at place p and a key at place q depends on p - q alone.

    Args:
      x: [batch, tokens, heads, features]; features a multiple of 4.
      places: [tokens, 2].

    Returns:
      Of the shape and type of x; computed in float32.

    Source: Su et al., arXiv:2104.09864; half of the pairs for each axis, and the base,
    as in Heo et al., arXiv:2403.13298.
    """
    turned = angles(places, x.shape[-1] // 4, 100.0)[None, :, None]
    cos, sin = (f(turned).astype(np.float32) for f in (np.cos, np.sin))
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    pair = [first * cos - second * sin, first * sin + second * cos]
    return jnp.concatenate(pair, axis=-1).astype(x.dtype)
