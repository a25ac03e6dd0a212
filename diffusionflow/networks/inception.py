"""Inception network of FID: images to 2,048 features; weights not included.

It is Inception-v3 as it was published for TensorFlow in 2015, which differs from
torchvision's in the pooling within blocks: averages leave the padding out, and the last
block takes the maximum. For inference only: batch normalisation is folded into the
convolutions, in float64, when weights are converted.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

SIDE = 299
NORM_EPSILON = 1e-3
UNUSED = ("AuxLogits.", "fc.")  # of a state: training's second head, and the classes


def unit(
    x: jax.Array,
    name: str,
    features: int,
    kernel: tuple[int, int] = (1, 1),
    *,
    stride: int = 1,
    padding: str = "SAME",
) -> jax.Array:
    """Applies convolution and relu, named in the module that calls it."""
    strides = (stride, stride)
    # FID is compared across machines: no TF32
    conv = nn.Conv(features, kernel, strides, padding, precision="highest", name=name)
    return nn.relu(conv(x))


def average(x: jax.Array) -> jax.Array:
    """Averages 3 x 3 pixels, those of the padding left out."""
    return nn.avg_pool(x, (3, 3), (1, 1), "SAME", count_include_pad=False)


def largest(x: jax.Array) -> jax.Array:
    """Takes the maximum of 3 x 3 pixels."""
    return nn.max_pool(x, (3, 3), (1, 1), "SAME")


def shrink(x: jax.Array) -> jax.Array:
    """Takes the maximum of 3 x 3 pixels with stride 2, without padding."""
    return nn.max_pool(x, (3, 3), (2, 2), "VALID")


def join(*branches: jax.Array) -> jax.Array:
    """Concatenates branches along the channels."""
    return jnp.concatenate(branches, axis=-1)


class BlockA(nn.Module):
    """35 x 35 maps: 1 x 1, 5 x 5, two 3 x 3, and a pool."""

    pooled: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        five = unit(x, "branch5x5_1", 48)
        three = unit(x, "branch3x3dbl_1", 64)
        three = unit(three, "branch3x3dbl_2", 96, (3, 3))
        return join(
            unit(x, "branch1x1", 64),
            unit(five, "branch5x5_2", 64, (5, 5)),
            unit(three, "branch3x3dbl_3", 96, (3, 3)),
            unit(average(x), "branch_pool", self.pooled),
        )


class BlockB(nn.Module):
    """35 x 35 to 17 x 17."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        half: dict[str, Any] = dict(stride=2, padding="VALID")
        three = unit(x, "branch3x3dbl_1", 64)
        three = unit(three, "branch3x3dbl_2", 96, (3, 3))
        return join(
            unit(x, "branch3x3", 384, (3, 3), **half),
            unit(three, "branch3x3dbl_3", 96, (3, 3), **half),
            shrink(x),
        )


class BlockC(nn.Module):
    """17 x 17 maps: 1 x 1, 7 x 7 in two parts, the same twice, and a pool."""

    width: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        seven = unit(x, "branch7x7_1", self.width)
        seven = unit(seven, "branch7x7_2", self.width, (1, 7))
        twice = unit(x, "branch7x7dbl_1", self.width)
        for number, kernel in ((2, (7, 1)), (3, (1, 7)), (4, (7, 1))):
            twice = unit(twice, f"branch7x7dbl_{number}", self.width, kernel)
        return join(
            unit(x, "branch1x1", 192),
            unit(seven, "branch7x7_3", 192, (7, 1)),
            unit(twice, "branch7x7dbl_5", 192, (1, 7)),
            unit(average(x), "branch_pool", 192),
        )


class BlockD(nn.Module):
    """17 x 17 to 8 x 8."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        half: dict[str, Any] = dict(stride=2, padding="VALID")
        seven = unit(x, "branch7x7x3_1", 192)
        seven = unit(seven, "branch7x7x3_2", 192, (1, 7))
        seven = unit(seven, "branch7x7x3_3", 192, (7, 1))
        return join(
            unit(unit(x, "branch3x3_1", 192), "branch3x3_2", 320, (3, 3), **half),
            unit(seven, "branch7x7x3_4", 192, (3, 3), **half),
            shrink(x),
        )


class BlockE(nn.Module):
    """8 x 8 maps: 1 x 1, 3 x 3 in two directions, a deeper such branch, and a pool."""

    largest: bool

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        three = unit(x, "branch3x3_1", 384)
        deep = unit(x, "branch3x3dbl_1", 448)
        deep = unit(deep, "branch3x3dbl_2", 384, (3, 3))
        pooled = largest(x) if self.largest else average(x)
        return join(
            unit(x, "branch1x1", 320),
            unit(three, "branch3x3_2a", 384, (1, 3)),
            unit(three, "branch3x3_2b", 384, (3, 1)),
            unit(deep, "branch3x3dbl_3a", 384, (1, 3)),
            unit(deep, "branch3x3dbl_3b", 384, (3, 1)),
            unit(pooled, "branch_pool", 192),
        )


class Inception(nn.Module):
    """Inception-v3 up to the 2,048 features of the last pooling, `pool3`.

    Source: Szegedy et al., Rethinking the Inception Architecture for Computer Vision,
    arXiv:1512.00567; the use of its features for FID, arXiv:1706.08500.
    """

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Computes features [batch, 2048].

        Args:
          x: [batch, height, width, 3], values in [-1, 1], from `resized`; sides of 75
            or more.
        """
        x = unit(x, "Conv2d_1a_3x3", 32, (3, 3), stride=2, padding="VALID")
        x = unit(x, "Conv2d_2a_3x3", 32, (3, 3), padding="VALID")
        x = shrink(unit(x, "Conv2d_2b_3x3", 64, (3, 3)))
        x = unit(x, "Conv2d_3b_1x1", 80)
        x = shrink(unit(x, "Conv2d_4a_3x3", 192, (3, 3), padding="VALID"))
        blocks = (
            BlockA(32, name="Mixed_5b"),
            BlockA(64, name="Mixed_5c"),
            BlockA(64, name="Mixed_5d"),
            BlockB(name="Mixed_6a"),
            BlockC(128, name="Mixed_6b"),
            BlockC(160, name="Mixed_6c"),
            BlockC(160, name="Mixed_6d"),
            BlockC(192, name="Mixed_6e"),
            BlockD(name="Mixed_7a"),
            BlockE(False, name="Mixed_7b"),
            BlockE(True, name="Mixed_7c"),
        )
        for block in blocks:
            x = block(x)
        return x.mean((1, 2))


def resized(x: jax.Array) -> jax.Array:
    """Resizes images [batch, height, width, channels] to 299 x 299, bilinear.

    Pixels are taken at their centres, without antialiasing, as in PyTorch's
    `interpolate(align_corners=False)`. Deviation: the graph of 2015 takes them at their
    corners, which moves published numbers a little.
    """
    shape = (x.shape[0], SIDE, SIDE, x.shape[-1])
    return jax.image.resize(x, shape, "bilinear", antialias=False)


def inception_params(state: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Converts arrays under torchvision's names to parameters of `Inception`.

    `kernel = w gamma / sqrt(var + 0.001)`, `bias = beta - mean gamma / sqrt(var +
    0.001)`.

    Args:
      state: `"Mixed_5b.branch1x1.conv.weight"` [out, in, height, width], and
        `.bn.weight`, `.bn.bias`, `.bn.running_mean`, `.bn.running_var` [out], of every
        convolution, as in the port of the weights of 2015 to PyTorch. Names of the
        heads are not needed.

    Raises:
      ValueError: names are missing, or not of this network, or shapes differ: all of
        them are listed.
    """
    image = jax.ShapeDtypeStruct((1, 75, 75, 3), jnp.float32)
    shapes = jax.eval_shape(Inception().init, jax.random.key(0), image)["params"]
    units = {
        tuple(key.key for key in path[:-1]): leaf.shape
        for path, leaf in jax.tree_util.tree_leaves_with_path(shapes)
        if path[-1].key == "kernel"
    }
    _check_state(state, units)
    params: dict[str, Any] = {}
    for path in units:
        place = params
        for name in path[:-1]:
            place = place.setdefault(name, {})
        place[path[-1]] = _folded(state, ".".join(path))
    return params


VECTORS = ("bn.weight", "bn.bias", "bn.running_mean", "bn.running_var")


def _check_state(state: Mapping[str, np.ndarray], units: dict[Any, Any]) -> None:
    wanted: dict[str, tuple[int, ...]] = {}
    for path, (height, width, inner, outer) in units.items():
        name = ".".join(path)
        wanted[f"{name}.conv.weight"] = (outer, inner, height, width)
        wanted |= {f"{name}.{vector}": (outer,) for vector in VECTORS}
    shapes = {name: tuple(np.shape(array)) for name, array in state.items()}
    ignored = lambda name: (
        name.startswith(UNUSED) or name.endswith(".num_batches_tracked")
    )
    wrong = {
        "missing": [name for name in wanted if name not in shapes],
        "not of this network": [
            name for name in shapes if name not in wanted and not ignored(name)
        ],
        "of another shape": [
            f"{name} {shapes[name]}, must be {shape}"
            for name, shape in wanted.items()
            if name in shapes and shapes[name] != shape
        ],
    }
    lines = [f"{what}: {', '.join(names)}" for what, names in wrong.items() if names]
    if lines:
        raise ValueError(
            f"{len(shapes)} arrays are not the weights of Inception; {'; '.join(lines)}"
        )


def _folded(state: Mapping[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    part = lambda field: np.asarray(state[f"{name}.{field}"], np.float64)
    gamma, beta, mean, variance = map(part, VECTORS)
    scale = gamma / np.sqrt(variance + NORM_EPSILON)
    kernel = part("conv.weight").transpose(2, 3, 1, 0) * scale
    folded = {"kernel": kernel, "bias": beta - mean * scale}
    return {field: array.astype(np.float32) for field, array in folded.items()}
