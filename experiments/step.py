"""One training step, as a pure function.

Randomness: the keys of example i of the batch at step k are `fold_in` of (seed, k, i),
those of dropout of (seed, k), so they depend neither on the devices nor on where a run
was interrupted.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from diffusionflow import ema, losses, objectives, random, times
from experiments.data import Examples
from experiments.model import Model

INIT, TRAIN, EVALUATE, SAMPLE = range(4)  # folded into the seed: independent streams


class Bins(NamedTuple):
    """Equal bins of the log-SNR; the two outer ones take what lies beyond.

    Fields:
      low: lower edge of the first bin.
      high: upper edge of the last bin.
      count: number of bins.
    """

    low: float
    high: float
    count: int

    def one_hot(self, logsnr: jax.Array) -> jax.Array:
        """In which bin each log-SNR [batch] lies: bool [batch, count]."""
        width = (self.high - self.low) / self.count
        place = jnp.clip(jnp.floor((logsnr - self.low) / width), 0, self.count - 1)
        return place[:, None] == jnp.arange(self.count, dtype=place.dtype)[None]


class Sums(NamedTuple):
    """Sums since the last logged step; they are saved, so that averages resume.

    Fields:
      steps: number of steps, int32.
      loss: of the batch means, float32.
      grad_norm: before clipping, float32.
      bin_examples: examples per log-SNR bin, int32 [bins].
      bin_importance: their importance weights, float32 [bins].
      bin_loss: their losses, importance-weighted, float32 [bins].
      bin_eps_mse: their squared errors of eps, likewise, float32 [bins].
    """

    steps: jax.Array
    loss: jax.Array
    grad_norm: jax.Array
    bin_examples: jax.Array
    bin_importance: jax.Array
    bin_loss: jax.Array
    bin_eps_mse: jax.Array

    @classmethod
    def zeros(cls, num_bins: int) -> "Sums":
        """No step yet."""
        scalar, bins = jnp.zeros(()), jnp.zeros(num_bins)
        count = jnp.zeros((), jnp.int32)
        examples = jnp.zeros(num_bins, jnp.int32)
        return cls(count, scalar, scalar, examples, bins, bins, bins)

    def add(
        self, loss: jax.Array, grad_norm: jax.Array, terms: losses.Terms, bins: Bins
    ) -> "Sums":
        """The sums with one more step."""
        member = bins.one_hot(terms.logsnr)
        total = lambda value: jnp.where(member, value[:, None], 0).sum(0)
        return Sums(
            steps=self.steps + 1,
            loss=self.loss + loss,
            grad_norm=self.grad_norm + grad_norm,
            bin_examples=self.bin_examples + member.sum(0, dtype=jnp.int32),
            bin_importance=self.bin_importance + total(terms.importance),
            bin_loss=self.bin_loss + total(terms.loss),
            bin_eps_mse=self.bin_eps_mse + total(terms.importance * terms.eps_mse),
        )


class TrainState(NamedTuple):
    """Everything that a step changes.

    Fields:
      step: updates made so far, int32; also the number of the next batch.
      params: of the network.
      opt_state: of optax.
      ema: average of `params`, float32.
      sums: for the log.
      moments: what an adaptive proposal has learned; None for any other.
      profiles: averages of power profiles, float32, one for each of the recipe's.
    """

    step: jax.Array
    params: Any
    opt_state: Any
    ema: Any
    sums: Sums
    moments: times.Moments | None = None
    profiles: tuple[Any, ...] = ()


class Recipe(NamedTuple):
    """What a training step needs besides state and batch; fixed for a run.

    Fields:
      model: network and objective.
      optimizer: of optax.
      label_dropout: probability that an example is trained without its label.
      ema_limit: final decay of the average.
      ema_warmup: see `diffusionflow.ema.decay`.
      bins: of the log.
      log_every: the sums start anew after every multiple of it.
      gammas: powers of the averages `profiles` of the state.
    """

    model: Model
    optimizer: optax.GradientTransformation
    label_dropout: float
    ema_limit: float
    ema_warmup: float
    bins: Bins
    log_every: int
    gammas: tuple[float, ...] = ()


def stream(seed: int, purpose: int) -> jax.Array:
    """The key of one purpose of a run."""
    return random.fold_in(jax.random.key(seed, impl="threefry2x32"), purpose)


def init(key: jax.Array, recipe: Recipe) -> TrainState:
    """The state before the first step."""
    params = recipe.model.init(key)
    adaptive = times.adaptive_part(recipe.model.objective.proposal)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=recipe.optimizer.init(params),
        ema=ema.init(params),
        sums=Sums.zeros(recipe.bins.count),
        moments=None if adaptive is None else adaptive.init(),
        profiles=tuple(ema.init(params) for _ in recipe.gammas),
    )


def train_step(
    state: TrainState, batch: Examples, key: jax.Array, *, recipe: Recipe
) -> tuple[TrainState, jax.Array]:
    """One update.

    Args:
      state: before.
      batch: stored values [batch, *event] and labels [batch].
      key: the stream of training; the step is folded in here.
      recipe: of the run.

    Returns:
      The state after, and the mean loss of the batch.
    """
    (loss, terms), gradients = loss_and_gradients(state, batch, key, recipe=recipe)
    updates, opt_state = recipe.optimizer.update(
        gradients, state.opt_state, state.params
    )
    params = optax.apply_updates(state.params, updates)
    decay = ema.decay(state.step, limit=recipe.ema_limit, warmup=recipe.ema_warmup)
    anew = state.step % recipe.log_every == 0
    sums = jax.tree.map(
        lambda value: jnp.where(anew, jnp.zeros_like(value), value), state.sums
    )
    return TrainState(
        step=state.step + 1,
        params=params,
        opt_state=opt_state,
        ema=ema.update(state.ema, params, decay),
        sums=sums.add(loss, optax.tree.norm(gradients), terms, recipe.bins),
        moments=_learned(state.moments, terms, recipe.model.objective),
        profiles=tuple(
            ema.power_update(average, params, state.step, gamma=gamma)
            for average, gamma in zip(state.profiles, recipe.gammas, strict=True)
        ),
    ), loss


def _learned(
    moments: times.Moments | None,
    terms: losses.Terms,
    objective: objectives.Objective,
) -> times.Moments | None:
    """The moments of an adaptive proposal after the whole batch."""
    adaptive = times.adaptive_part(objective.proposal)
    if adaptive is None:
        return None
    return adaptive.update(moments, terms, objective.schedule)


def loss_and_gradients(
    state: TrainState, batch: Examples, key: jax.Array, *, recipe: Recipe
) -> tuple[tuple[jax.Array, losses.Terms], Any]:
    """((mean loss, terms), gradients) of the batch; arguments as `train_step`."""
    model = recipe.model
    step_key = random.fold_in(key, state.step)
    example_key, dropout_key = random.split(step_key)
    number = jnp.arange(batch.labels.shape[0])
    loss_keys, label_keys = random.split(random.example_keys(example_key, number))
    dropped = random.uniform(label_keys, number.shape) < recipe.label_dropout
    labels = jnp.where(dropped, model.num_classes, batch.labels)
    x = model.transform.to_float(batch.values)
    proposal = times.with_moments(model.objective.proposal, state.moments)
    objective = dataclasses.replace(model.objective, proposal=proposal)

    def mean_loss(params: Any) -> tuple[jax.Array, losses.Terms]:
        predict_fn = model.predict_fn(params, labels, dropout_key)
        terms = losses.objective_terms(loss_keys, predict_fn, x, objective=objective)
        return terms.loss.mean(), terms

    return jax.value_and_grad(mean_loss, has_aux=True)(state.params)


def averages(sums: Sums) -> dict[str, Any]:
    """What the sums say, as one row of the log; bins without examples are NaN.

    The means of a bin are those of the objective's own times, from wherever times were
    drawn: sums of weighted values over sums of weights.
    """
    sums = jax.device_get(sums)
    full = sums.bin_importance > 0
    mean = lambda total: [
        value / weight if ok else float("nan")
        for value, weight, ok in zip(total, sums.bin_importance, full, strict=True)
    ]
    return {
        "loss": sums.loss / sums.steps,
        "grad_norm": sums.grad_norm / sums.steps,
        "loss_by_logsnr": mean(sums.bin_loss),
        "eps_mse_by_logsnr": mean(sums.bin_eps_mse),
        "examples_by_logsnr": [int(count) for count in sums.bin_examples],
    }
