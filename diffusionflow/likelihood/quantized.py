"""Data of K levels: dequantisation, their likelihood given z_0, bits per dimension."""

import math
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from diffusionflow import _xp as xp
from diffusionflow import random
from diffusionflow._dataclass import (
    check_below,
    check_bound,
    check_count,
    check_positive,
    is_finite,
    is_traced,
    register,
    static,
)
from diffusionflow._numeric import at_least_float32, floating, in_type_of
from diffusionflow.predictions.checks import check_float

OFF_CENTRE = 0.01  # of a cell: far above rounding, far below a wrong scale


@register
class QuantizedLevels:
    """Maps level k of K to the float `low + (k + 1/2) width`.

    With `width = (high - low) / K` the cells fill [low, high], and each value is the
    centre of its cell. For the values themselves to reach from -1 to 1, write
    `QuantizedLevels.between(K, -1.0, 1.0)`.

    Args:
      count: K, at least 2: 256 for bytes.
      low: lower end of the lowest cell.
      high: upper end of the highest cell.

    Raises:
      ValueError: fewer than two levels, or not -inf < low < high < inf.
    """

    count: int = static(default=256)
    low: float = -1.0
    high: float = 1.0

    def __post_init__(self) -> None:
        check_count("count", self.count, 2)
        check_bound("low", self.low, is_finite, "finite")
        check_bound("high", self.high, is_finite, "finite")
        check_below("low", self.low, "high", self.high)

    @classmethod
    def between(cls, count: int, first: float, last: float) -> "QuantizedLevels":
        """Makes levels whose lowest value is `first` and whose highest is `last`."""
        check_count("count", count, 2)
        half = (last - first) / (count - 1) / 2
        return cls(count, first - half, last + half)

    @property
    def width(self) -> float:
        """Width of a cell."""
        return (self.high - self.low) / self.count

    def values(self, number: ArrayLike) -> Array:
        """Converts levels `0 .. count - 1` to floats, of the shape of `number`."""
        return self.low + (at_least_float32(number) + 0.5) * self.width

    def numbers(self, x: Array) -> Array:
        """Returns the level of each value, int32 like `x`.

        Raises:
          ValueError: `x` is of integers, or a value is further than `OFF_CENTRE` of a
            cell from the centre of any; in a traced array such a value gets the
            number -1.
        """
        place = (_as_levels(x) - self.low) / self.width - 0.5
        nearest = jnp.round(place)
        good = (jnp.abs(place - nearest) <= OFF_CENTRE) & (nearest >= 0)
        good &= nearest <= self.count - 1
        if not is_traced(good) and not np.all(good):
            first = np.asarray(x)[~np.asarray(good)].ravel()[0]
            raise ValueError(
                f"x={first}: must be one of the {self.count} values from "
                f"{self.low + self.width / 2} to {self.high - self.width / 2}, the "
                f"centres of the cells of [{self.low}, {self.high}]; declare the "
                "levels that the data have (QuantizedLevels.between for values that "
                "include the ends)"
            )
        return jnp.where(good, nearest, -1).astype(jnp.int32)

    def dequantise(self, key: Array, x: Array) -> Array:
        """Dequantises uniformly in the cell of each value: `x + width (u - 1/2)`.

        A density p of the result bounds the probability of the level:
        `-log P(x) <= -E log p(x + width (u - 1/2)) - d log width`.

        Args:
          key: scalar, or typed keys `[*batch]`.
          x: levels as floats, `[*batch, *event]`.

        Returns:
          Like `x`; NaN at values that are no level, in a traced array.

        Raises:
          ValueError: values that are no levels, where they are concrete.

        Source: Uria et al. 2013, arXiv 1306.0186; the bound, Theis et al. 2016, arXiv
        1511.01844.
        """
        x = _as_levels(x)
        centre = self._centre(self.numbers(x), x.dtype)
        noise = random.uniform(key, x.shape).astype(x.dtype) - 0.5
        return centre + self.width * noise

    def nats(
        self, x: Array, eps: Array, logsnr: ArrayLike, batch_ndim: int = 1
    ) -> Array:
        """Computes the reconstruction term `-log p(x | z_0)` of levels.

        `p(x | z_0)` is the softmax over the levels x_k of
        `-e^logsnr (z_0 / alpha_0 - x_k)^2 / 2`, coordinate by coordinate: the posterior
        of levels that are equally likely. It depends on `x` and `eps` only through
        `z_0 / alpha_0 - x_k = x - x_k + e^(-logsnr / 2) eps`.

        Args:
          x: levels as floats, `[*batch, *event]`.
          eps: noise of z_0, like `x`.
          logsnr: of z_0, scalar.
          batch_ndim: leading axes of `x` that are the batch.

        Returns:
          `[*batch]`, nats, summed over the event; NaN for values that are no level, in
          a traced array.

        Raises:
          ValueError: values that are no levels, where they are concrete.
          AssertionError: the shape of `eps` is another.

        Source: Kingma et al. 2021, arXiv 2107.00630, the reconstruction of VDM.
        """
        x = _as_levels(x)
        chex.assert_equal_shape([x, eps])
        number = self.numbers(x)[..., None]
        eps = eps.astype(x.dtype)[..., None]
        others = jnp.arange(self.count, dtype=jnp.int32)
        others = others.reshape((1,) * x.ndim + (-1,))
        cell = self.width * jnp.exp(jnp.asarray(logsnr, x.dtype) / 2)
        gap = (number - others).astype(x.dtype) * cell
        # the other levels against x itself, so that nothing cancels
        logits = jnp.where(gap == 0, -jnp.inf, -gap * (gap + 2 * eps) / 2)
        open_nats = jax.nn.softplus(jax.nn.logsumexp(logits, axis=-1))
        open_nats = jnp.where(number[..., 0] >= 0, open_nats, jnp.nan)
        return jnp.sum(open_nats, axis=tuple(range(batch_ndim, x.ndim)))

    def _centre(self, number: Array, dtype: Any) -> Array:
        centre = self.values(number).astype(dtype)
        return jnp.where(number >= 0, centre, jnp.nan)


def _as_levels(x: Array) -> Array:
    check_float("x", x, "numbers of levels become floats by levels.values(number)")
    return at_least_float32(x)


def gaussian_nats(logsnr: ArrayLike, dim: int) -> Array:
    """Computes the reconstruction term of continuous data, in nats.

    `E[-log N(x; z_0 / alpha_0, e^-logsnr)] = d / 2 (log 2 pi - logsnr + 1)`, the same
    for every x.

    Args:
      logsnr: of z_0, any shape.
      dim: d, the size of the event.

    Returns:
      Like `logsnr`; negative where z_0 is precise, as log densities are.
    """
    return dim / 2 * (math.log(2 * math.pi) - floating(logsnr) + 1)


DISCRETE = "discrete"


def bits_per_dim(
    nats: ArrayLike, *, dim: int, cell: QuantizedLevels | float | str | None = None
) -> Array:
    """Converts nats to bits per dimension: `nats / (d log 2) - log2(width)`.

    A negative log density changes with the unit of the data; bits do not, given
    the width of a cell of the data in the unit of the density. On [-1, 1] with 256
    levels the width is 1/128, which adds 7 bits.

    Args:
      nats: negative log-likelihood of an event, any shape.
      dim: d, the number of its coordinates.
      cell: what nats are of. "discrete": of a probability of levels, such as a bound
        with `levels`, which needs no width. `QuantizedLevels`: of a density of data
        dequantised from these levels. A number: of a density, with cells of this width
        (the data standardised as `(raw - shift) / scale` have `1 / scale` for one unit
        of raw).

    Returns:
      Like `nats`.

    Raises:
      ValueError: `cell` is missing or no width, or `dim` is below 1.
    """
    check_count("dim", dim)
    if cell is None or (isinstance(cell, str) and cell != DISCRETE):
        raise ValueError(
            f"cell={cell!r}: a density of float data has no bits until it is declared "
            'how the floats were made; write cell="discrete" for nats of a probability '
            "(a bound with levels), cell=QuantizedLevels(...) for dequantised data, or "
            "the width of a cell as a number (1 / scale for data divided by scale)"
        )
    nats = floating(nats)
    if isinstance(cell, str):
        width: ArrayLike = 1.0
    else:
        width = cell.width if isinstance(cell, QuantizedLevels) else cell
        check_positive("cell", width)
    (offset,) = in_type_of(nats, [xp.log2(floating(width))])
    return nats / (dim * math.log(2)) - offset
