"""From pictures of 256 levels to the input of Inception, as published FIDs have it."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from diffusionflow.networks.inception import SIDE, resized


class Protocol(NamedTuple):
    """How an FID of 50,000 samples is computed.

    Fields:
      input_fn: uint8 [n, height, width, 3] to floats [n, 299, 299, 3].
      words: whose numbers it compares with.
    """

    input_fn: Callable[[np.ndarray], jax.Array]
    words: str


def corner_bilinear(x: np.ndarray) -> jax.Array:
    """Resizes bilinearly from the corners of pixels, then `(x - 128) / 128`.

    Row i of the result lies at row `i height / 299`, as in the graph of 2015 and in the
    detector of EDM.
    """
    rows, columns = (_weights(size) for size in x.shape[1:3])
    precise = jax.lax.Precision.HIGHEST
    values = jnp.asarray(x, jnp.float32)
    values = jnp.einsum("ih,bhwc->biwc", rows, values, precision=precise)
    values = jnp.einsum("jw,biwc->bijc", columns, values, precision=precise)
    return (values - 128) / 128


def _weights(size: int) -> np.ndarray:
    """Computes bilinear weights of a row of `size` pixels, float32 [299, size]."""
    place = np.arange(SIDE) * (size / SIDE)
    low = np.floor(place).astype(int)
    high = np.minimum(low + 1, size - 1)
    part = place - low
    weights = np.zeros((SIDE, size))
    np.add.at(weights, (np.arange(SIDE), low), 1 - part)
    np.add.at(weights, (np.arange(SIDE), high), part)
    return weights.astype(np.float32)


def centre_bilinear(x: np.ndarray) -> jax.Array:
    """Resizes bilinearly from pixel centres, then `x / 127.5 - 1`, as pytorch-fid."""
    return resized(jnp.asarray(x, jnp.float32) / 127.5 - 1)


def clean_bicubic(x: np.ndarray) -> jax.Array:
    """Resizes floats bicubically, antialiased, cut to [0, 255], then `(x - 128) / 128`.

    Source: Parmar et al. 2022, arXiv 2104.11222.
    """
    channels = np.moveaxis(np.asarray(x, np.float32), -1, 1)
    found = [[_bicubic(channel) for channel in image] for image in channels]
    values = np.moveaxis(np.array(found), 1, -1).clip(0, 255)
    return (jnp.asarray(values) - 128) / 128


def _bicubic(channel: np.ndarray) -> np.ndarray:
    """Resizes a channel [height, width] to 299 x 299 bicubically."""
    image = Image.fromarray(channel).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    return np.asarray(image)


PROTOCOLS = {
    "fid50k": Protocol(corner_bilinear, "FIDs of EDM and of TensorFlow's graph"),
    "fid50k_pytorch": Protocol(centre_bilinear, "FIDs of pytorch-fid"),
    "fid50k_clean": Protocol(clean_bicubic, "FIDs of clean-fid"),
}
