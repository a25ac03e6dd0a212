"""Discrete-time schedules: a table of noise levels (alphas_cumprod)."""

from typing import Any

import jax
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from diffusionflow import _xp as xp
from diffusionflow._dataclass import check_count, is_traced, register
from diffusionflow._numeric import cast, floating, in_type_of
from diffusionflow.schedules.base import FromSquares


@register
class Discrete(FromSquares):
    """Variance preserving, from a table of `alpha^2` at T noise levels.

    Level i = 1..T (entry i - 1 of the table) is at `t = i / T`, and t = 0 is the
    data, alpha = 1: then the T steps of the discrete process are T equal steps of time,
    and t = 1 is the last level. The table's values are exact at these nodes. Between
    them alpha^2, and so sigma^2, is linear in t: the log-SNR falls everywhere, and
    alpha and sigma are finite at both ends, also with zero terminal SNR, where
    `logsnr(1) = -inf`. The slopes jump at the nodes, where that of the step towards the
    noise is taken.

    Args:
      alphas_cumprod: alpha^2, falling, in (0, 1), the last may be 0, `[T]`. Numbers
        that are not traced are kept in float64.
      complement: sigma^2 = 1 - alphas_cumprod, `[T]`; kept separately, since it is
        lost where alpha^2 is near 1 in float32. Computed if None. To learn a table,
        make it from its parameters inside the loss.

    Raises:
      ValueError: the table does not fall, or leaves [0, 1); a complement that does not
        rise, leaves (0, 1] or has another shape.

    Source: Ho et al. 2020, arXiv 2006.11239 (alpha^2 is its alpha-bar); the continuous
    reading is ours. Others interpolate log alpha in t (Lu et al. 2022,
    arXiv 2206.00927), which has no zero terminal SNR; the nodes agree.
    """

    alphas_cumprod: Any
    complement: Any = None

    def __post_init__(self) -> None:
        # jax.Arrays with a complement come from a pytree, maybe of gradients
        table, complement = self.alphas_cumprod, self.complement
        concrete = isinstance(table, jax.Array) and not is_traced(table)
        if _is_given(table) or (complement is None and concrete):
            table = np.asarray(table, np.float64)
            _check_table(table)
            object.__setattr__(self, "alphas_cumprod", table)
        if complement is None and table is not None:
            object.__setattr__(self, "complement", 1 - table)
        elif _is_given(complement):
            complement = np.asarray(complement, np.float64)
            _check_complement(complement, np.shape(table))
            object.__setattr__(self, "complement", complement)

    @classmethod
    def from_betas(cls, betas: ArrayLike) -> "Discrete":
        """Makes the schedule of betas: `alphas_cumprod_i = prod_{j <= i} (1 - beta_j)`.

        Args:
          betas: noise added in each step, each in (0, 1), the last may be 1, `[T]`.

        Raises:
          ValueError: a beta is outside.
        """
        betas = np.asarray(betas, np.float64)
        inside = (betas > 0) & (betas < 1)
        inside[-1:] |= betas[-1:] == 1
        if betas.ndim != 1 or not betas.size or not inside.all():
            raise ValueError(
                f"betas={betas}: must be one-dimensional, each in (0, 1) but the last, "
                "which may be 1"
            )
        return cls(np.cumprod(1 - betas))

    @classmethod
    def linear_betas(
        cls, num_levels: int = 1000, beta_min: float = 1e-4, beta_max: float = 0.02
    ) -> "Discrete":
        """Makes the schedule of DDPM: `num_levels` betas, equally spaced.

        Source: Ho et al. 2020, arXiv 2006.11239, section 4.
        """
        check_count("num_levels", num_levels)
        return cls.from_betas(np.linspace(beta_min, beta_max, num_levels))

    def _node(self, t: ArrayLike) -> tuple[Array, Array]:
        """Finds the step that holds `t`, 0..T-1, and the part of it before `t`."""
        single = getattr(t, "dtype", None) == np.float32  # rounded so, also if NumPy's
        t = floating(t)
        unit = np.finfo(np.float32 if single else t.dtype).eps
        count = self.alphas_cumprod.shape[-1]
        place = t * count
        node = xp.round(place)  # i / T times T may come out below i
        at_node = xp.abs(place - node) <= 4 * unit * place
        index = xp.where(at_node, node, xp.floor(place))
        index = xp.clip(index, 0, count - 1)
        return index.astype(np.int32), place - index

    def _tables(self, like: Array) -> tuple[Array, Array]:
        """Returns alpha^2 and sigma^2 at all nodes from t = 0 on, typed as `like`."""
        alpha2, sigma2 = in_type_of(like, (self.alphas_cumprod, self.complement))
        zero = xp.zeros_like(alpha2[:1])
        return xp.concatenate([zero + 1, alpha2]), xp.concatenate([zero, sigma2])

    def squares(self, t: ArrayLike) -> tuple[Array, Array]:
        """Computes `(alpha^2, sigma^2)`."""
        index, part = self._node(t)
        mix = lambda table: table[index] * (1 - part) + table[index + 1] * part
        alpha2, sigma2 = self._tables(part)
        return mix(alpha2), mix(sigma2)

    def rate(self, t: ArrayLike) -> Array:
        """Computes `(sigma^2)'`."""
        index, part = self._node(t)
        return self.alphas_cumprod.shape[-1] * self._steps(index, part)

    def _steps(self, index: Array, like: Array) -> Array:
        """Computes the `sigma^2` gained in a step, from the smaller of the squares."""
        alpha2, sigma2 = self._tables(like)
        lost, gained = -xp.diff(alpha2), xp.diff(sigma2)
        return xp.where(alpha2[:-1] < 0.5, lost, gained)[index]

    def inverse_logsnr(self, logsnr: ArrayLike) -> Array:
        logsnr = floating(logsnr)
        alpha2, sigma2 = self._tables(logsnr)
        nodes = xp.log(alpha2) - xp.log(sigma2)
        count = self.alphas_cumprod.shape[-1]
        index = xp.clip(xp.searchsorted(-nodes, -logsnr) - 1, 0, count - 1)
        # each square is precise where it is the smaller one
        before = xp.sigmoid(-logsnr) - sigma2[index]
        after = xp.sigmoid(logsnr) - alpha2[index + 1]
        step = self._steps(index, logsnr)
        part = xp.where(logsnr > 0, before / step, 1 - after / step)
        return (cast(index, logsnr) + part) / count


def zero_terminal_snr(alphas_cumprod: ArrayLike) -> np.ndarray:
    """Rescales a table to zero terminal SNR: alpha is shifted and scaled to end at 0.

    `alpha <- (alpha - alpha_T) alpha_1 / (alpha_1 - alpha_T)`; the first level keeps
    its value.

    Args:
      alphas_cumprod: alpha^2, falling, `[T]`, T at least 2.

    Returns:
      The rescaled alpha^2, float64 `[T]`, for `Discrete`. The network can no longer
      predict eps: at t = 1 it would not determine x.

    Raises:
      ValueError: as `Discrete`, or T is 1.

    Source: Lin et al. 2023, arXiv 2305.08891, algorithm 1.
    """
    table = np.asarray(alphas_cumprod, np.float64)
    _check_table(table)
    if table.size < 2:
        raise ValueError(f"alphas_cumprod={table}: must have at least 2 levels")
    alpha = np.sqrt(table)
    return ((alpha - alpha[-1]) * (alpha[0] / (alpha[0] - alpha[-1]))) ** 2


def _is_given(table: Any) -> bool:
    return isinstance(table, (list, tuple, np.ndarray))


def _check_complement(complement: np.ndarray, shape: tuple[int, ...]) -> None:
    if complement.shape != shape:
        raise ValueError(
            f"complement of shape {complement.shape}: must have that of "
            f"alphas_cumprod, {shape}"
        )
    rises = np.diff(complement) > 0
    if not (complement.min() > 0 and complement.max() <= 1 and rises.all()):
        raise ValueError(
            f"complement from {complement.min()} to {complement.max()}: must be "
            "1 - alphas_cumprod, rising in (0, 1]"
        )


def _check_table(table: np.ndarray) -> None:
    """Checks a table, or a stack of tables with more axes, as `vmap` takes it."""
    if table.ndim == 0 or not table.size:
        raise ValueError(f"alphas_cumprod of shape {table.shape}: must be [T]")
    if not (table.max() < 1 and table.min() >= 0):
        raise ValueError(
            f"alphas_cumprod from {table.max()} to {table.min()}: must be in [0, 1); "
            "level 0, the data, is not part of the table"
        )
    falls = np.diff(table) < 0
    if not falls.all():
        place = int(np.argwhere(~falls)[0][-1])
        raise ValueError(
            f"alphas_cumprod {table[..., place]} and {table[..., place + 1]} (entries "
            f"{place} and {place + 1}): each must be below the one before"
        )
