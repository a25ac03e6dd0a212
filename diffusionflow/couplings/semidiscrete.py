"""The optimal coupling of a finite data set with continuous noise."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from diffusionflow import predictions, random
from diffusionflow._dataclass import check_count, check_positive, is_traced, register
from diffusionflow.couplings.base import Coupling, Pairs, as_labels, as_rows, checked


@register
class Semidiscrete(Coupling):
    """Optimal pairs of noise with the rows of a finite data set: x moves, not eps.

    Noise goes to row `argmin_j |eps - x_j|^2 - g_j`, the potentials g such that every
    row gets its share of the noise. That is the optimal map from the normal law onto
    the data set itself: no batch enters, so there is no bias of its size. The noise of
    a batch stays as it was drawn, and `Pairs.x = data[Pairs.index]` takes the place of
    the `x` of a call, of which only the shape counts. Where potentials are not exact,
    the shares of rows are not: see `Semidiscrete.fit`.

    Args:
      data: all rows, `[N, *event]`.
      potentials: g, `[N]`.
      labels: of the rows, integers `[N]`, where potentials are those inside labels: a
        call then needs labels, and noise goes to a row of its label only. (Where it is
        traced and no row has it, x is NaN.)

    Raises:
      ValueError: shapes disagree; in a call also where labels are given or missing
        unlike here, or no row has one of them.

    Example:
      >>> coupling = Semidiscrete(jnp.array([-1.0, 1.0]), jnp.array([0.0, 2.0]))
      >>> pairs = coupling(None, jnp.zeros(3), jnp.array([-2.0, -0.4, 1.0]))
      >>> print(pairs.x, pairs.index)  # the edge is where 4 eps = 0 - 2
      [-1.  1.  1.] [0 1 1]
    """

    data: Any
    potentials: Any
    labels: Any = None

    def __call__(
        self, key: Array | None, x: Array, eps: Array, labels: Array | None = None
    ) -> Pairs:
        """Pairs noise with rows of the data: `eps` and `labels` as given.

        Args:
          key: not used: nothing is random.
          x: any, `[n, *event]`: it is replaced.
          eps: standard normal noise, `[n, *event]`.
          labels: integers `[n]`, where the potentials are those inside labels.

        Returns:
          `Pairs`, `index` and `x` of the rows of the data.

        Raises:
          ValueError: as `Coupling.__call__`, and as the class.
        """
        _check_labels(labels, self.labels)
        _, eps, labels = checked(key, x, eps, labels)
        data, rows, own = _as_data(self.data, self.labels)
        if np.shape(self.potentials) != rows.shape[:1]:
            raise ValueError(
                f"potentials of shape {np.shape(self.potentials)}: must be "
                f"{rows.shape[:1]}, one for each row of the data"
            )
        predictions.check_same_shape("one eps", eps[0], "one row of data", data[0])
        score = _score(rows, self.potentials, as_rows(eps))
        if own is None or labels is None:
            index = jnp.argmin(score, axis=1).astype(jnp.int32)
            return Pairs(data[index], eps, labels, index)
        same = labels.astype(jnp.int32)[:, None] == own.astype(jnp.int32)[None, :]
        nearest = jnp.argmin(jnp.where(same, score, jnp.inf), axis=1)
        index = nearest.astype(jnp.int32)
        known = same.any(axis=1).reshape(-1, *(1,) * (data.ndim - 1))
        return Pairs(jnp.where(known, data[index], jnp.nan), eps, labels, index)

    @classmethod
    def fit(
        cls,
        key: Array,
        data: Array,
        labels: Array | None = None,
        *,
        weights: Array | None = None,
        num_steps: int = 2000,
        batch_size: int = 256,
        rate: float | Array = 0.3,
    ) -> "Semidiscrete":
        """Finds the potentials: averaged stochastic ascent of the dual problem.

        Step k adds `rate spread / sqrt(k) (1 - share_j / weight_j)` to g_j, the shares
        those of `batch_size` draws of noise, `spread` the size of `2 (x_j - mean)`; the
        result is the mean over the last half of the steps. How well it is solved shows
        in the shares of new noise, `jnp.bincount(pairs.index, length=N) / n`: they are
        the weights where it is. Rows that are equal share their noise; the first of
        them gets it.

        Args:
          key: scalar.
          data: all rows, `[N, *event]`.
          labels: of the rows, integers `[N]`; each label is matched on its own.
          weights: positive, `[N]`: probabilities of the rows, up to a factor in each
            label; equal if None.
          num_steps: O(batch_size N features) each.
          batch_size: draws of noise in a step.
          rate: size of the steps.

        Returns:
          The coupling, with potentials of mean 0 in each label.

        Raises:
          ValueError: the data are not of floating numbers or not finite, labels or
            weights have another shape, labels are traced, or a setting is not positive.

        Source: Genevay et al. 2016, arXiv 1605.08527, algorithm 2, with steps relative
        to weights and data.

        Example:
          >>> coupling = Semidiscrete.fit(jax.random.key(0), jnp.array([-1.0, 1.0]))
          >>> print(jnp.abs(coupling.potentials).max() < 0.05)  # halves: 0 is the edge
          True
        """
        data, rows, labels = _as_data(data, labels)
        _check_finite("data", rows)
        check_positive("rate", rate)
        for name, value in (("num_steps", num_steps), ("batch_size", batch_size)):
            check_count(name, value)
        group, count = _numbered(labels, len(rows))
        total = lambda value: jax.ops.segment_sum(value, group, count)[group]
        share = _as_weights(weights, rows)
        share = share / total(share)
        rate = rate * 2 * jnp.sqrt(((rows - rows.mean(0)[None]) ** 2).sum(1).mean())

        def step(k: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
            potentials, mean = state
            shape = (batch_size, rows.shape[1])
            eps = random.normal(random.fold_in(key, k), shape, rows.dtype)
            score = _score(rows, potentials, eps).T
            won = score == jax.ops.segment_min(score, group, count)[group]
            won = won.astype(rows.dtype)
            found = (won / total(won)).mean(axis=1)
            size = rate / jnp.sqrt(k.astype(rows.dtype) + 1)
            potentials = potentials + size * (1 - found / share)
            kept = jnp.maximum(k - num_steps // 2 + 1, 1).astype(rows.dtype)
            return potentials, mean + (potentials - mean) / kept

        start = jnp.zeros_like(share), jnp.zeros_like(share)
        _, mean = jax.lax.fori_loop(0, num_steps, step, start)
        _check_finite("potentials, of data so large", mean[:, None])
        ones = jnp.ones_like(mean)
        return cls(data, mean - total(mean) / total(ones), labels)


def _score(rows: Array, potentials: Array, eps: Array) -> Array:
    """Computes `|eps_i - x_j|^2 - g_j` without `|eps_i|^2`, `[n, N]`."""
    product = jnp.matmul(eps, rows.T, precision=jax.lax.Precision.HIGHEST)
    offset = (rows**2).sum(1) - jnp.asarray(potentials).astype(rows.dtype)
    return offset[None, :] - 2 * product


def _as_data(data: Array, labels: Array | None) -> tuple[Array, Array, Array | None]:
    """Converts data to arrays `[N, *event]`, rows `[N, features]` and labels."""
    data = predictions.as_data(data, "data")
    if not data.ndim or not len(data):
        raise ValueError(f"data of shape {data.shape}: must be [N, *event]")
    return data, as_rows(data), as_labels(labels, len(data))


def _check_finite(name: str, rows: Array) -> None:
    """Raises a `ValueError` where a row is not finite: all noise would go to one."""
    if is_traced(rows):
        return
    bad = np.flatnonzero(~np.isfinite(np.asarray(rows)).all(1))
    if len(bad):
        raise ValueError(
            f"{name}: {len(bad)} of {len(rows)} rows are not finite, the first is row "
            f"{bad[0]}: leave them out"
        )


def _as_weights(weights: Array | None, rows: Array) -> Array:
    if weights is None:
        return jnp.ones_like(rows[:, 0])
    flat = np.ones(1) if is_traced(weights) else np.ravel(weights)
    good = (flat > 0) & (flat < np.inf)
    if not good.all():
        row = int(np.argmin(good))
        raise ValueError(
            f"weights: {float(flat[row])} of row {row}: each must be positive and "
            "finite; leave a row without weight out of the data"
        )
    weights = predictions.as_data(weights, "weights").astype(rows.dtype)
    predictions.check_same_shape("weights", weights, "one feature", rows[:, 0])
    return weights


def _numbered(labels: Array | None, n: int) -> tuple[Array, int]:
    """Numbers the labels 0, 1, ..., count - 1, and counts them."""
    if labels is None:
        return jnp.zeros(n, jnp.int32), 1
    if is_traced(labels):
        raise ValueError(
            "labels of the data are known only inside jax.jit: must be an array of "
            "numbers; fit the coupling outside of it"
        )
    values, number = np.unique(np.asarray(labels), return_inverse=True)
    return jnp.asarray(number, jnp.int32), len(values)


def _check_labels(labels: Any, own: Any) -> None:
    """Raises a `ValueError` where labels do not fit those of the data."""
    if (labels is None) != (own is None):
        given, fitted = ("out" if each is None else "" for each in (labels, own))
        raise ValueError(
            f"called with{given} labels, and fitted with{fitted}, which pairs other "
            "examples: give labels to both calls, or to none"
        )
    if labels is None or is_traced(labels, own):
        return
    missing = np.setdiff1d(np.asarray(labels), np.asarray(own))
    if len(missing):
        raise ValueError(
            f"labels {missing.tolist()}: no row of the data has them; must be among "
            "the labels that the coupling was fitted with"
        )
