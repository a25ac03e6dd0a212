"""Positional embeddings on a grid of any dimension: sinusoidal and rotary (RoPE).

Each of the n axes has an equal share of the features, in pairs of a sine and a cosine,
so the number of features is a multiple of 2 n. The tables are constants of the grid, so
they are made on the host.
"""

import jax
import jax.numpy as jnp
import numpy as np


def places(*sizes: int) -> np.ndarray:
    """Returns the coordinates of each token, the last axis fastest.

    Args:
      *sizes: tokens along each of n axes, such as rows and columns.

    Returns:
      [prod(sizes), n].
    """
    grid = list(np.mgrid[tuple(slice(size) for size in sizes)])
    return np.stack(grid, axis=-1).reshape(-1, len(sizes))


def angles(places: np.ndarray, features: int, base: float) -> np.ndarray:
    """Computes `place base^(-k / count)` for k = 0..count-1, one axis after another.

    There are `count = features / (2 n)` frequencies for each of n axes.

    Args:
      places: [tokens, n].
      features: sines and cosines together.
      base: the slowest frequency is about 1 / base.

    Returns:
      float64 [tokens, features / 2].

    Raises:
      ValueError: `features` is not a multiple of 2 n.
    """
    tokens, axes = places.shape
    if features % (2 * axes):
        raise ValueError(
            f"{features} features for positions on {axes} axes: must be a multiple of "
            f"{2 * axes}, a sine and a cosine for each axis"
        )
    count = features // (2 * axes)
    frequencies = float(base) ** (-np.arange(count) / count)
    return (places[:, :, None] * frequencies).reshape(tokens, axes * count)


def sinusoids(places: np.ndarray, features: int) -> np.ndarray:
    """Computes the sinusoidal embedding, to be added: [tokens, features].

    Sines and cosines of `angles` with base 10000.

    Args:
      places: [tokens, n].
      features: a multiple of 2 n.

    Raises:
      ValueError: see `angles`.

    Source: Vaswani et al., arXiv:1706.03762, section 3.5, for one axis; an equal share
    of the features for each as in Peebles & Xie, arXiv:2212.09748, for two.
    """
    turned = angles(places, features, 10_000.0)
    return np.concatenate([np.sin(turned), np.cos(turned)], axis=-1).astype(np.float32)


def rotate(x: jax.Array, places: np.ndarray) -> jax.Array:
    """Applies RoPE: rotates pairs of features by `angles` with base 100.

    The product of a query at place p and a key at place q depends on p - q alone.

    Args:
      x: [batch, tokens, heads, features]; features a multiple of 2 n.
      places: [tokens, n].

    Returns:
      Of the shape and type of x; computed in float32.

    Raises:
      ValueError: see `angles`.

    Source: Su et al., arXiv:2104.09864, for one axis; an equal share of the pairs for
    each, and the base, as in Heo et al., arXiv:2403.13298, for two.
    """
    turned = angles(places, x.shape[-1], 100.0)[None, :, None]
    cos, sin = (f(turned).astype(np.float32) for f in (np.cos, np.sin))
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    pair = [first * cos - second * sin, first * sin + second * cos]
    return jnp.concatenate(pair, axis=-1).astype(x.dtype)
