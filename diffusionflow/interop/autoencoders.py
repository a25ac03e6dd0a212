"""Published autoencoders: images to latents of unit scale, and back."""

import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from diffusionflow._dataclass import check_bound, check_name, register, static
from diffusionflow.interop.hub import local_path
from diffusionflow.interop.parameters import (
    as_parameter,
    entries_of,
    params_of,
    with_new_names,
)
from diffusionflow.interop.weights import read_json, read_weights

LOGVAR_RANGE = (-30.0, 20.0)  # to which the source clips
OVERLAP = 0.25  # of tiles, of their side
# entries of config.json that say nothing of the network
ELSEWHERE = (
    "sample_size",
    "force_upcast",
    "scaling_factor",
    "shift_factor",
    "latents_mean",
    "latents_std",
)


class Moments(NamedTuple):
    """A Gaussian for each number of the latents.

    Fields:
      mean: [*batch, height, width, channels], of latents of unit scale.
      std: of the same shape.
    """

    mean: Array
    std: Array

    def sample(self, key: Array) -> Array:
        """Samples latents, `mean + std eps`."""
        return self.mean + self.std * jax.random.normal(
            key, self.mean.shape, self.mean.dtype
        )


@register
class Autoencoder:
    """An autoencoder with its weights; its latents have about unit variance.

    `z = scale (mean + std eps - shift)`, and an image is `decode(z / scale + shift)`.

    Args:
      params: parameters of the module.
      scale: number or [channels]: the config's `scaling_factor`.
      shift: number or [channels]: the config's `shift_factor`, 0 without.
      module: `networks.pretrained.AutoencoderKL`.
      sample_size: side of the images that it was trained on.
    """

    params: Any
    scale: Any
    shift: Any
    module: Any = static()
    sample_size: int = static()

    def encode(self, x: Array, *, tile: int | None = None) -> Moments:
        """Computes the moments of the latents of images.

        Args:
          x: [*batch, height, width, channels], in [-1, 1]; sides are multiples of
            `module.factor`.
          tile: side of overlapping tiles that are encoded one by one, for images that
            do not fit into memory; None for the whole. Tiles see less: the result
            differs a little.

        Returns:
          `Moments` [*batch, height / factor, width / factor, channels].
        """
        factor = self.module.factor
        _check_tile(tile, factor)
        each = self._call("encode")
        whole = each(x) if tile is None else _tiled(each, x, tile, 1 / factor)
        mean, logvar = jnp.split(whole, 2, axis=-1)
        std = jnp.exp(jnp.clip(logvar, *LOGVAR_RANGE) / 2)
        scale, shift = _row(self.scale, mean), _row(self.shift, mean)
        return Moments(scale * (mean - shift), scale * std)

    def decode(self, z: Array, *, tile: int | None = None) -> Array:
        """Computes the images of latents.

        Args:
          z: [*batch, height, width, channels], of unit scale, as `encode` gives them.
          tile: side in pixels of overlapping tiles that are decoded one by one; None
            for the whole.

        Returns:
          [*batch, factor height, factor width, channels], in about [-1, 1].
        """
        factor = self.module.factor
        _check_tile(tile, factor)
        z = z / _row(self.scale, z) + _row(self.shift, z)
        each = self._call("decode")
        return each(z) if tile is None else _tiled(each, z, tile // factor, factor)

    def _call(self, method: str) -> Callable[[Array], Array]:
        def call(x: Array) -> Array:
            flat = x.reshape(-1, *x.shape[-3:])
            variables = {"params": self.params}
            y = self.module.apply(variables, flat, method=method)
            return y.reshape(*x.shape[:-3], *y.shape[1:])

        return call


def load_autoencoder(path: str | pathlib.Path) -> Autoencoder:
    """Opens a published autoencoder with its weights, scale and shift.

    Args:
      path: a folder in the layout of diffusers, of an `AutoencoderKL` (`config.json`
        and its weights) or of a pipeline that has one in `vae`; or on the hub,
        `hf://owner/name[@revision]`.

    Returns:
      `Autoencoder`, parameters in float32.

    Raises:
      ValueError: a file is missing or corrupted, the class or an entry of the config
        is not known here, or the weights are not exactly those of the network.
    """
    folder = local_path(path, ("", "vae/"))
    if not (folder / "config.json").is_file() and (folder / "vae").is_dir():
        folder = folder / "vae"
    config = read_json(folder / "config.json")
    name = str(config.get("_class_name"))
    check_name("_class_name of an autoencoder", name, ("AutoencoderKL",))
    module = network_of(config)
    scale, shift = scale_and_shift(config)
    size = _side(config)
    params = params_of(
        module, with_new_names(read_weights(folder, put=as_parameter)), name
    )
    return Autoencoder(params, scale, shift, module, size)


def network_of(config: Mapping[str, Any]) -> Any:
    """Returns the Flax module of a config of an `AutoencoderKL`."""
    from diffusionflow.networks.pretrained import AutoencoderKL

    return AutoencoderKL(**entries_of(AutoencoderKL, config, ELSEWHERE))


def scale_and_shift(config: Mapping[str, Any]) -> tuple[Any, Any]:
    """Returns scale and shift of the latents that a config names.

    A number of each, or one a channel by `latents_mean` and `latents_std`.

    Raises:
      ValueError: an entry is no such number or list, or both a shift and a mean of the
        latents are there.
    """
    given = {name: value for name, value in config.items() if value is not None}
    scale = given.get("scaling_factor", 0.18215)
    shift = given.get("shift_factor", 0.0)
    if not (_is_finite(scale) and scale > 0):
        raise ValueError(f"scaling_factor={scale!r}: must be a positive number")
    if not _is_finite(shift):
        raise ValueError(f"shift_factor={shift!r}: must be a finite number")
    mean, std = (_of_channels(given, name) for name in ("latents_mean", "latents_std"))
    if std is not None and not (std > 0).all():
        raise ValueError(f"latents_std={std.tolist()}: must be positive")
    if mean is not None and shift:
        raise ValueError(
            f"shift_factor={shift!r} and latents_mean: give one of the two"
        )
    if mean is not None:
        shift = mean
    if std is not None:
        scale = scale / std
    return scale, shift


def _of_channels(config: Mapping[str, Any], name: str) -> np.ndarray | None:
    """Reads an entry of numbers, one a channel of the latents; None if missing."""
    if name not in config:
        return None
    count = config.get("latent_channels", 4)
    value = config[name]
    try:
        numbers = np.asarray(value, np.float32).reshape(-1)
    except (TypeError, ValueError):
        numbers = np.zeros(0, np.float32)
    if numbers.size != count or not np.isfinite(numbers).all():
        raise ValueError(
            f"{name}={value!r}: must be {count} finite numbers, one a channel of the "
            "latents (latent_channels)"
        )
    return numbers


def _side(config: Mapping[str, Any]) -> int:
    """Reads the side of the images of a config, the larger of two."""
    size = config.get("sample_size")
    sides = size if isinstance(size, list) else [32 if size is None else size]
    if not sides or not all(type(each) is int and each > 0 for each in sides):
        raise ValueError(
            f"sample_size={size!r}: must be a positive integer, two of them, or null"
        )
    return max(sides)


def _is_finite(value: Any) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and bool(np.isfinite(value))


def _row(value: Any, like: Array) -> Array:
    """Reshapes a number, or one a channel, to multiply an array like `like`."""
    value = jnp.asarray(value, like.dtype)
    return value.reshape((1,) * (like.ndim - value.ndim) + value.shape)


def _check_tile(tile: int | None, factor: int) -> None:
    if tile is not None:
        multiple = lambda side: side > 0 and side % (4 * factor) == 0
        bound = f"a positive multiple of {4 * factor}: a quarter of a tile overlaps"
        check_bound("tile", tile, multiple, bound)


def _tiled(fn: Callable[[Array], Array], x: Array, tile: int, factor: float) -> Array:
    """Applies `fn` to overlapping tiles and blends their results linearly.

    Args:
      fn: [*batch, height, width, channels] -> the same, sides times `factor`.
      x: the whole image.
      tile: side of a tile of x.
      factor: side of the result over that of x.
    """
    stride, side = int(tile * (1 - OVERLAP)), round(tile * factor)
    blend = int(side * OVERLAP)
    kept = side - blend
    height, width = x.shape[-3:-1]
    above: list[Array] = []
    rows = []
    for top in range(0, height, stride):
        row: list[Array] = []
        for left in range(0, width, stride):
            each = fn(x[..., top : top + tile, left : left + tile, :])
            if above:
                each = _blended(above[len(row)], each, blend, axis=-3)
            if row:
                each = _blended(row[-1], each, blend, axis=-2)
            row.append(each)
        above = row
        rows.append(
            jnp.concatenate([each[..., :kept, :kept, :] for each in row], axis=-2)
        )
    return jnp.concatenate(rows, axis=-3)


def _blended(first: Array, second: Array, extent: int, axis: int) -> Array:
    """Blends the start of `second` with the end of `first`, along an axis."""
    extent = min(first.shape[axis], second.shape[axis], extent)
    cut = lambda array, start, stop: jax.lax.slice_in_dim(
        array, start, stop, axis=axis + array.ndim
    )
    shape = [1] * second.ndim
    shape[axis] = extent
    weight = (jnp.arange(extent, dtype=second.dtype) / extent).reshape(shape)
    end = cut(first, first.shape[axis] - extent, first.shape[axis])
    start, rest = cut(second, 0, extent), cut(second, extent, second.shape[axis])
    mixed = end * (1 - weight) + start * weight
    return jnp.concatenate([mixed, rest], axis=axis)
