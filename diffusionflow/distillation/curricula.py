"""Published curricula: numbers of levels, their draws, and how close two times are.

Levels here are EDM's sigma, and on any schedule `rho = sigma / alpha`; the time of rho
is `schedule.inverse_logsnr(-2 log(rho))`.
"""

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from diffusionflow import _xp as xp
from diffusionflow import predictions, random
from diffusionflow._dataclass import (
    check_below,
    check_bound,
    check_count,
    check_finite,
    check_positive,
    is_traced,
)
from diffusionflow._numeric import floating


def cm_levels(
    step: ArrayLike, *, num_steps: float = 800_000, first: int = 2, last: int = 150
) -> Array:
    """Counts the levels of consistency training after `step` of `num_steps` steps.

    `N = ceil(sqrt(k/K ((s1 + 1)^2 - s0^2) + s0^2) - 1) + 1`, a whole number as a float.

    Args:
      step: k, any shape.
      num_steps: K.
      first: s0, levels at the start.
      last: s1; there are s1 + 1 levels at the end.

    Raises:
      ValueError: a number is out of bounds.

    Source: Song et al. 2023, arXiv 2303.01469, schedule functions.
    """
    check_positive("num_steps", num_steps)
    check_count("first", first)
    check_below("first", first, "last", last)
    share = floating(step) / num_steps
    root = xp.sqrt(share * ((last + 1) ** 2 - first**2) + first**2)
    return -xp.floor(1 - root) + 1


def cm_decay(levels: ArrayLike, *, initial: float = 0.9, first: int = 2) -> Array:
    """Computes the target's EMA decay in consistency training, `exp(s0 log(mu0) / N)`.

    Args:
      levels: N, of `cm_levels`.
      initial: mu0, the decay at N = s0, in (0, 1).
      first: s0.

    Raises:
      ValueError: `initial` is out of bounds.

    Source: Song et al. 2023, arXiv 2303.01469, schedule functions.
    """
    check_bound("initial", initial, lambda decay: 0 < decay < 1, "in (0, 1)")
    return xp.exp(first * xp.log(floating(initial)) / floating(levels))


def ict_levels(
    step: ArrayLike, *, num_steps: float = 400_000, first: int = 10, last: int = 1280
) -> Array:
    """Counts the levels of improved consistency training: they double.

    `N = min(s0 2^floor(k/K'), s1) + 1`, `K' = floor(K / (log2(s1/s0) + 1))`, a whole
    number as a float.

    Args:
      step: k, any shape.
      num_steps: K.
      first: s0.
      last: s1.

    Raises:
      ValueError: a number is out of bounds.

    Source: Song and Dhariwal 2023, arXiv 2310.14189, discretisation curriculum.
    """
    check_positive("num_steps", num_steps)
    check_count("first", first)
    check_below("first", first, "last", last)
    ratio = floating(last / first)
    stages = xp.log2(ratio) + 1
    if not is_traced(stages):
        fewest = f"at least {float(stages):g}, a step for each doubling"
        check_bound("num_steps", num_steps, lambda n: n >= float(stages), fewest)
    length = xp.floor(num_steps / stages)
    doublings = xp.floor(floating(step) / length)
    return xp.minimum(first * floating(2.0) ** doublings, last) + 1


def ict_probabilities(
    sigma: ArrayLike, *, mean: float = -1.1, std: float = 2.0
) -> Array:
    """Computes probabilities of pairs of neighbours: log-normal sigma between them.

    Args:
      sigma: levels, `[num_levels]`, rising.
      mean: of log sigma.
      std: of log sigma.

    Returns:
      `[num_levels - 1]`, of the pair (i, i + 1).

    Raises:
      ValueError: levels do not rise, or a number is out of bounds.

    Source: Song and Dhariwal 2023, arXiv 2310.14189, eq. on the lognormal schedule.
    """
    check_positive("std", std)
    check_finite("mean", mean)
    _check_levels(sigma)
    below = xp.ndtr((xp.log(floating(sigma)) - mean) / std)
    mass = xp.diff(below)
    return mass / xp.sum(mass)


def _check_levels(sigma: ArrayLike) -> None:
    """Raises a `ValueError` unless there are two levels or more, which rise."""
    if is_traced(sigma):
        return
    levels = np.asarray(sigma, float)
    rise = levels.ndim == 1 and len(levels) > 1 and (np.diff(levels) > 0).all()
    if not (rise and levels[0] > 0 and levels[-1] < np.inf):
        raise ValueError(
            f"sigma of shape {levels.shape}, from {levels.ravel()[:1]} to "
            f"{levels.ravel()[-1:]}: must be two positive levels or more, which rise"
        )


def level_pairs(
    key: Array,
    shape: tuple[int, ...],
    *,
    times: ArrayLike,
    probability: ArrayLike | None = None,
) -> tuple[Array, Array]:
    """Draws neighbouring times `(t, l)`, l < t, of a grid.

    Args:
      key: scalar, or typed keys `[*batch]`.
      shape: of the results.
      times: grid, `[num_levels]`, rising or falling.
      probability: of the pairs, `[num_levels - 1]`, that next to the data first; None
        for equal ones.

    Returns:
      t and l of `shape`.

    Raises:
      ValueError: there are fewer than two times, some are outside [0, 1], or there is
        not a probability for each pair.
    """
    grid = jnp.sort(jnp.asarray(times, jnp.result_type(float)))
    count = len(grid) - 1 if grid.ndim == 1 else 0
    if count < 1:
        raise ValueError(
            f"times of shape {grid.shape}: must be [num_levels], two levels or more"
        )
    predictions.check_unit_interval("times", times)
    if probability is not None:
        _check_probability(probability, count)
    mass = jnp.full((count,), 1 / count) if probability is None else probability
    edges = jnp.cumsum(jnp.asarray(mass, grid.dtype))
    draw = random.uniform(key, shape).astype(grid.dtype) * edges[-1]
    index = jnp.minimum(jnp.searchsorted(edges, draw, side="right"), count - 1)
    return grid[index + 1], grid[index]


def _check_probability(probability: ArrayLike, count: int) -> None:
    """Raises a `ValueError` unless numbers are probabilities of `count` pairs."""
    if np.shape(probability) != (count,):
        raise ValueError(
            f"probability of shape {np.shape(probability)}: must be ({count},), one "
            "for each pair of neighbours"
        )
    if is_traced(probability):
        return
    mass = np.asarray(probability)
    if not ((mass >= 0).all() and 0 < mass.sum() < np.inf):
        raise ValueError(
            f"probability from {mass.min():.4g} to {mass.max():.4g}: must be 0 or more "
            "each, and not all 0"
        )


def ect_partner(
    sigma: ArrayLike,
    exponent: ArrayLike,
    *,
    q: float = 2.0,
    k: float = 8.0,
    b: float = 1.0,
) -> Array:
    """Computes a pair's earlier level in easy consistency tuning, nearer in each stage.

    `r = sigma max(0, 1 - (1 + k sigmoid(-b sigma)) q^-a)`: where it is 0 the loss is
    that of denoising.

    Args:
      sigma: the later level, any shape.
      exponent: a, 1 in the first stage and 1 more in each.
      q: how much nearer a stage comes.
      k: how much farther apart levels near the data are.
      b: where that ends.

    Raises:
      ValueError: q is not above 1.

    Source: Geng et al. 2024, arXiv 2406.14548, mapping function.
    """
    check_bound("q", q, lambda q: 1 < q < float("inf"), "above 1 and finite")
    sigma, exponent = floating(sigma), floating(exponent)
    gap = (1 + k * xp.sigmoid(-b * sigma)) * floating(q) ** -exponent
    return sigma * xp.maximum(1 - gap, 0)


def tangent_warmup(step: ArrayLike, *, num_steps: float = 10_000) -> Array:
    """Computes the `warmup` of `eulerian_loss`: from 0 to 1 in `num_steps` steps.

    Args:
      step: any shape.
      num_steps: when it is 1.

    Raises:
      ValueError: `num_steps` is not positive.

    Source: Lu and Song 2024, arXiv 2410.11081, tangent warmup.
    """
    check_positive("num_steps", num_steps)
    return xp.clip(floating(step) / num_steps, 0, 1)
