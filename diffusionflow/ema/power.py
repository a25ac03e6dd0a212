"""Power-function EMA, and post-hoc EMA: any width from a few stored averages.

After n updates the average of profile gamma is

    (gamma + 1) / n^(gamma + 1) * integral_0^n tau^gamma params(tau) dtau,

where params(tau) are those after update ceil(tau), so that the sum that is tracked is
this integral exactly; the parameters before the first update have no part in it. Its
width is measured by `sigma_rel`, the standard deviation of the profile as a fraction of
n. Averages of several widths and times are vectors of one space, and an average that
was never tracked is approximated by its projection on those that were stored.

Source: Karras et al. 2024, arXiv:2312.02696, section 3 and appendix C.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from diffusionflow._dataclass import check_bound, check_positive
from diffusionflow.ema.exponential import toward

WIDEST = 12**-0.5  # of gamma = 0, all updates alike


def relative_width(gamma: float) -> float:
    """Computes `sigma_rel = sqrt(gamma + 1) / ((gamma + 2) sqrt(gamma + 3))`.

    Args:
      gamma: of the profile, at least 0.

    Returns:
      The standard deviation of the profile on [0, 1], at most `1 / sqrt(12)`.

    Raises:
      ValueError: `gamma` is negative or infinite.
    """
    inside = lambda gamma: 0 <= gamma < float("inf")
    check_bound("gamma", gamma, inside, "at least 0 and finite")
    return (gamma + 1) ** 0.5 / ((gamma + 2) * (gamma + 3) ** 0.5)


def gamma_of(sigma_rel: float) -> float:
    """Computes gamma from the width: the inverse of `relative_width`.

    The one root at or above 0 of
    `(gamma + 2)^2 (gamma + 3) - (gamma + 1) / sigma_rel^2`.

    Args:
      sigma_rel: in (0, 1 / sqrt(12)]: 0.05 is short, 0.25 long.

    Raises:
      ValueError: `sigma_rel` is out of bounds.
    """
    # a width written with three digits may not be lost to rounding at the bound
    inside = lambda width: 0 < width <= WIDEST * (1 + 1e-12)
    check_bound("sigma_rel", sigma_rel, inside, f"in (0, 1 / sqrt(12) = {WIDEST:.4f}]")
    inverse = sigma_rel**-2.0
    roots = np.roots([1.0, 7.0, 16.0 - inverse, 12.0 - inverse])
    return max(0.0, float(roots.real.max()))


def power_update(
    average: Any, params: Any, num_updates: ArrayLike, *, gamma: float
) -> Any:
    """Updates the average once more: decay `(n / (n + 1))^(gamma + 1)`.

    The rate, 1 minus the decay, is computed without cancellation. The first update
    replaces the average by the parameters, so no warm-up is needed.

    Args:
      average: float32 pytree, from `init` or an earlier update.
      params: after the update; pytree of the same structure, any floating type.
      num_updates: updates n made before this one, a scalar.
      gamma: of the profile, at least 0.

    Returns:
      float32 pytree.

    Source: Karras et al. 2024, arXiv:2312.02696, section 3.1.
    """
    check_bound("gamma", gamma, lambda gamma: gamma >= 0, "at least 0")
    n = jnp.asarray(num_updates).astype(jnp.float32)
    rate = -jnp.expm1((gamma + 1) * jnp.log1p(-1 / (n + 1)))
    return toward(average, params, rate)


class Profile(NamedTuple):
    """Profile of a power-function average: its time and exponent.

    Fields:
      num_updates: updates n after which it was read, at least 1.
      gamma: of its power.
    """

    num_updates: float
    gamma: float


def inner_product(a: Profile, b: Profile) -> np.ndarray:
    """Computes `integral p_a p_b dtau` of two profiles.

    Here `p(tau) = (gamma + 1) tau^gamma / n^(gamma + 1)`. With n_a <= n_b it is

        (gamma_a + 1) (gamma_b + 1) / (gamma_a + gamma_b + 1) (n_a / n_b)^gamma_b / n_b.

    Args:
      a: one profile, its fields numbers or arrays.
      b: the other; the fields broadcast.

    Returns:
      float64.
    """
    n_a, gamma_a, n_b, gamma_b = (np.asarray(part, np.float64) for part in (*a, *b))
    later = np.maximum(n_a, n_b)
    outer = np.where(n_a <= n_b, gamma_b, gamma_a)
    scale = (gamma_a + 1) * (gamma_b + 1) / (gamma_a + gamma_b + 1)
    return scale * (np.minimum(n_a, n_b) / later) ** outer / later


class Combination(NamedTuple):
    """Weights that reconstruct an average, and their error.

    Fields:
      weights: of the stored averages, float64; they sum to 1.
      error: `||sum w_i p_i - p|| / ||p||` of the profiles.
    """

    weights: np.ndarray
    error: float


def combination(stored: Sequence[Profile], wanted: Profile) -> Combination:
    """Computes the weights whose sum of stored profiles is nearest to the wanted one.

    Least squares over the updates, under the condition that the weights sum to 1, so
    that constant parameters are reproduced exactly.

    Args:
      stored: distinct profiles that were stored.
      wanted: the one to approximate.

    Returns:
      The weights, and the relative error of the resulting profile.

    Raises:
      ValueError: nothing is stored, a profile is there twice, one has no updates, or
        the wanted one is later than all that are stored.

    Source: Karras et al. 2024, arXiv:2312.02696, section 3.2, without the condition.
    """
    _check(stored, wanted)
    n, gamma = np.array(stored, np.float64).T
    rows, columns = Profile(n[:, None], gamma[:, None]), Profile(n, gamma)
    gram, target = inner_product(rows, columns), inner_product(columns, wanted)
    scale = 1 / np.sqrt(
        np.diag(gram)
    )  # unit profiles: the system is better conditioned
    gram = gram * scale[:, None] * scale
    system = np.block([[gram, scale[:, None]], [scale, np.zeros(1)]])
    right = np.append(target * scale, 1.0)
    weights = scale * np.linalg.lstsq(system, right, rcond=None)[0][:-1]
    norm = inner_product(wanted, wanted)
    unit = weights / scale
    square = 1 + (unit @ gram @ unit - 2 * weights @ target) / norm
    return Combination(weights, float(np.sqrt(max(square, 0.0))))


def combine(weights: ArrayLike, averages: Iterable[Any]) -> Any:
    """Combines averages: `sum w_i average_i`, summed in float64 on the host.

    Args:
      weights: one for each average.
      averages: pytrees of arrays of one structure; read one after the other.

    Returns:
      A pytree of float32 NumPy arrays.
    """
    total = None
    for weight, average in zip(np.asarray(weights, np.float64), averages, strict=True):
        part = jax.tree.map(lambda x, w=weight: w * np.asarray(x, np.float64), average)
        total = part if total is None else jax.tree.map(np.add, total, part)
    return jax.tree.map(lambda x: x.astype(np.float32), total)


def _check(stored: Sequence[Profile], wanted: Profile) -> None:
    if not stored:
        raise ValueError("stored=[]: must be at least one average, stored in training")
    if len(set(stored)) < len(stored):
        raise ValueError(f"stored={list(stored)}: each profile must be there once")
    for profile in (*stored, wanted):
        check_positive("num_updates", profile.num_updates)
        relative_width(profile.gamma)
    latest = max(profile.num_updates for profile in stored)
    check_bound(
        "num_updates",
        wanted.num_updates,
        lambda number: number <= latest,
        f"at most {latest}, the latest that is stored",
    )
