"""Evaluates held-out examples: the objective's own loss, and eps-MSE by log-SNR.

Losses of two objectives cannot be compared. The eps-MSE (mean squared error of eps, per
dimension) at fixed log-SNRs can: it depends on the denoiser alone, whatever it predicts
and whatever its schedule, weighting and training times are. Half its integral over the
log-SNR is the diffusion term of the variational bound, in nats per dimension; that over
[-5, 7] is 6 times the mean over `LEVELS`, by the midpoint rule.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffusionflow import losses, random
from diffusionflow.schedules import Schedule
from experiments.config.model import Model
from experiments.data.base import Examples
from experiments.data.coupled import Coupled

LEVELS = np.arange(-4.0, 7.0, 2.0)  # log-SNRs


class Evaluation(NamedTuple):
    """Losses of each example; means over the unmasked values where there is a mask.

    Fields:
      loss: of the objective, mean over its draws, [batch].
      eps_mse: at `levels_of`, [batch, draws].
    """

    loss: jax.Array
    eps_mse: jax.Array


def levels_of(number: Any, draws: int) -> Any:
    """Assigns `LEVELS` to the draws of each example, in turn: [batch, draws]."""
    return (number[:, None] * draws + np.arange(draws)[None]) % len(LEVELS)


def reached(schedule: Schedule) -> np.ndarray:
    """Returns which of `LEVELS` a schedule reaches, bool."""
    low, high = schedule.logsnr_range()
    return (low <= LEVELS) & (high >= LEVELS)


def times_of_levels(schedule: Schedule) -> jax.Array:
    """Returns the time of each of `LEVELS`, float32, clipped to the schedule's range.

    `EvalAccumulator` masks these entries as NaN.
    """
    levels = np.clip(LEVELS, *schedule.logsnr_range())
    return jnp.asarray(schedule.inverse_logsnr(levels), jnp.float32)


def eval_step(
    params: Any,
    batch: Examples,
    number: jax.Array,
    key: jax.Array,
    *,
    model: Model,
    draws: int,
    coupled: Coupled | None = None,
    matched: jax.Array | None = None,
    counts: jax.Array | None = None,
) -> Evaluation:
    """Computes loss and eps-MSE of each example, at times and noise that never change.

    An example that has noise of its own is seen with that in every draw, as in
    training; only its times are drawn.

    Args:
      params: raw or averaged.
      batch: stored examples [batch, ...].
      number: of each example in its data set, [batch].
      key: the stream of evaluation.
      model: network and objective.
      draws: times and noises per example, of the objective and as many of `LEVELS`.
      coupled: pairs noise with the examples of the batch, as in training.
      matched: labels [batch], inside which it does, whatever the network is given.
      counts: bool [batch], False for examples that only fill the batch up; None if
        there are none.
    """
    term_fn = _term_fn(
        params, batch, number, key, model, draws, coupled, matched, counts
    )
    terms = jax.lax.map(term_fn, jnp.arange(2 * draws))
    return Evaluation(terms.loss[:draws].mean(0), terms.eps_mse[draws:].T)


def eps_mse(
    params: Any, batch: Examples, number: jax.Array, key: jax.Array, *, model: Model
) -> jax.Array:
    """Computes the eps-MSE of each example at each of `LEVELS`, [batch, levels].

    That of `eval_step` with as many draws as levels, without the losses of the
    objective, which would cost as many network calls again.

    Args:
      params: raw or averaged.
      batch: stored examples [batch, ...].
      number: of each example in its data set, [batch].
      key: the stream of evaluation.
      model: network and objective.
    """
    draws = len(LEVELS)  # then `levels_of` has them in order
    term_fn = _term_fn(params, batch, number, key, model, draws)
    return jax.lax.map(term_fn, draws + jnp.arange(draws)).eps_mse.T


def _term_fn(
    params: Any,
    batch: Examples,
    number: jax.Array,
    key: jax.Array,
    model: Model,
    draws: int,
    coupled: Coupled | None = None,
    matched: jax.Array | None = None,
    counts: jax.Array | None = None,
) -> Callable[[jax.Array], losses.Terms]:
    """Returns `draw -> Terms`; draws from number `draws` on are at the levels."""
    x = model.transform.to_float(batch.values)
    keys = random.example_keys(key, number)
    predict_fn = model.predict_fn(params, batch.labels, vector=batch.conditions)

    objective = model.objective
    density = objective.proposal or objective.times
    own_time = lambda key: density.sample(key, (), schedule=objective.schedule)
    fixed = times_of_levels(objective.schedule)[levels_of(number, draws)]

    classes = matched if model.num_classes else None

    def one(draw: jax.Array) -> losses.Terms:
        time_keys, noise_keys = random.split(random.fold_in(keys, draw))
        own = jax.vmap(own_time)(time_keys)  # not stratified over a padded batch
        t = jnp.where(draw < draws, own, fixed[:, draw % draws])
        pair = x, batch.noise
        if coupled is not None:
            pair = coupled(noise_keys, x, classes, counts)[:2]
        return losses.objective_terms(
            noise_keys,
            predict_fn,
            pair[0],
            objective=objective,
            t=t,
            eps=pair[1],
            mask=batch.mask,
        )

    return one


class EvalAccumulator:
    """Averages over a data set, of which each example is added once.

    Args:
      draws: as in `eval_step`.
      included: which of `LEVELS` count, such as those `reached`.
    """

    def __init__(self, draws: int, included: np.ndarray):
        self._draws, self._included, self._loss, self._count = draws, included, 0.0, 0
        self._sums, self._counts = np.zeros((2, len(LEVELS)))

    def add(self, evaluation: Evaluation, number: np.ndarray, mask: np.ndarray) -> None:
        """Adds examples `number` [batch] where `mask` [batch] is True."""
        loss, eps_mse = (np.asarray(part, np.float64)[mask] for part in evaluation)
        self._loss, self._count = self._loss + loss.sum(), self._count + len(loss)
        level = levels_of(number, self._draws)[mask]
        np.add.at(self._sums, level, eps_mse)
        np.add.at(self._counts, level, 1)

    def row(self) -> dict[str, Any]:
        """Returns `loss`, `eps_mse` (mean over `LEVELS`) and `eps_mse_by_level`.

        NaN at a level that is not included or that no example was evaluated at, and
        then for the mean too: a mean over other levels cannot be compared.
        """
        some = np.maximum(self._counts, 1)
        seen = self._included & (self._counts > 0)
        each = np.where(seen, self._sums / some, np.nan)
        return {
            "loss": self._loss / self._count,
            "eps_mse": each.mean(),
            "eps_mse_by_level": each.tolist(),
        }
