"""One training step, as a pure function.

Randomness: the keys of example i of the batch at step k are `fold_in` of (seed, k, i),
those of dropout of (seed, k), so they depend neither on the devices nor on where a run
was interrupted.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from diffusionflow import ema, losses, objectives, random, times
from diffusionflow.networks import platform
from experiments.config import methods
from experiments.config.model import Model
from experiments.data.base import DataSet, Examples
from experiments.data.coupled import Coupled
from experiments.runtime.errors import UsageError
from experiments.runtime.sharding import FSDPSharding, replicated
from experiments.training import grad_accumulation
from experiments.training.nonfinite import Faults
from experiments.training.running_metrics import Bins, RunningMetrics
from experiments.training.state import TrainState


class StepConfig(NamedTuple):
    """What a training step needs besides state and batch; fixed for a run.

    Fields:
      model: network and objective.
      optimizer: of optax.
      label_dropout: probability that an example is trained without label and vector.
      ema_limit: final decay of the average.
      ema_warmup: see `diffusionflow.ema.decay`.
      bins: of the log.
      log_every: the running metrics are reset after every multiple of it.
      batch_size: examples of a step, over all devices and processes.
      accumulate: parts of the batch that are computed one after another.
      nonfinite_limit: steps in a row that are not finite, after which none counts.
      placement: of parameters and of what is as large; None for the same everywhere.
      gammas: powers of the averages `profiles` of the state.
      num_steps: of the run; a stage of the method has equal parts of them.
      has_teacher: whether the state has the weights of a teacher.
      guidance: scale that is learned: of the first stage's teacher, or without one of
        the network's own predictions.
      fused_attention: whether a loss without a method may use cuDNN's kernels; those of
        methods differentiate in forward mode, which these do not have.
      coupled: pairs noise with the examples of a batch; None for independent noise.
    """

    model: Model
    optimizer: optax.GradientTransformation
    label_dropout: float
    ema_limit: float
    ema_warmup: float
    bins: Bins
    log_every: int
    batch_size: int
    accumulate: int = 1
    nonfinite_limit: int = 10
    placement: FSDPSharding | None = None
    gammas: tuple[float, ...] = ()
    coupled: Coupled | None = None
    num_steps: int = 1
    has_teacher: bool = False
    guidance: float = 1.0
    fused_attention: bool = False

    @property
    def stage_steps(self) -> int:
        """Steps of a stage of the method; the whole run where it has one."""
        method = self.model.method
        return self.num_steps // (1 if method is None else method.num_stages)


def check_examples(method: methods.Method | None, dataset: DataSet) -> None:
    """Raises a `UsageError` where a few-step method cannot be trained on a data set."""
    if method is None:
        return
    name = type(method).__name__
    if method.needs_noise and dataset.train.noise is None:
        raise UsageError(
            f"distillation.method: {name} is trained on pairs of noise and sample: "
            "write them with experiments.pairs and set --config.data.name=pairs "
            "--config.data.path=FILE"
        )
    if dataset.train.mask is not None:
        raise UsageError(
            f"distillation.method: {name} cannot leave masked values out, and the data "
            "have a mask; take another method, or data without a mask"
        )


def init(key: jax.Array, recipe: StepConfig) -> TrainState:
    """Initializes the state before the first step."""
    params = recipe.model.init(key)
    adaptive = times.adaptive_part(recipe.model.objective.proposal)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=recipe.optimizer.init(params),
        ema=ema.init(params),
        sums=RunningMetrics.zeros(recipe.bins.count),
        faults=Faults.zeros(recipe.batch_size, len(jax.tree.leaves(params))),
        moments=None if adaptive is None else adaptive.init(),
        profiles=tuple(ema.init(params) for _ in recipe.gammas),
        teacher=ema.init(params) if recipe.has_teacher else None,
    )


def begin_stage(state: TrainState, *, recipe: StepConfig) -> TrainState:
    """Makes the averaged student the teacher; the optimizer begins again."""
    params = jax.tree.map(
        lambda average, old: average.astype(old.dtype), state.ema, state.params
    )
    return state._replace(
        params=params,
        opt_state=recipe.optimizer.init(params),
        teacher=ema.init(state.ema),
    )


def shardings(
    state: TrainState, mesh: Mesh, placement: FSDPSharding | None
) -> TrainState:
    """Finds the shardings of a state: parameters and what is like them as placed."""
    same = jax.tree.map(lambda leaf: replicated(mesh), state)
    if placement is None:
        return same
    cut = {
        name: placement.shardings(getattr(state, name))
        for name in ("params", "opt_state", "ema", "profiles", "teacher")
    }
    return same._replace(**cut)


def train_step(
    state: TrainState, batch: Examples, key: jax.Array, *, recipe: StepConfig
) -> tuple[TrainState, jax.Array]:
    """Makes one update, or none where loss or gradient are not finite.

    Such a step leaves parameters, optimizer, average and moments as they were, bit for
    bit, and is counted in `faults`; the next one has the next batch.

    Args:
      state: before.
      batch: stored examples [batch, ...].
      key: the stream of training; the step is folded in here.
      recipe: of the run.

    Returns:
      The state after, and the mean loss of the batch.
    """
    resets = state.step % recipe.log_every == 0
    sums = jax.tree.map(
        lambda value: jnp.where(resets, jnp.zeros_like(value), value), state.sums
    )
    state = state._replace(sums=sums)
    (loss, terms), gradients = loss_and_gradients(state, batch, key, recipe=recipe)
    norm = optax.tree.norm(gradients)
    finite = jnp.isfinite(loss) & jnp.isfinite(norm)
    limit, number = recipe.nonfinite_limit, state.step + 1
    counts = finite & ~state.faults.stopped(limit)
    kept = _updated(counts, state, loss, norm, terms, gradients, recipe)
    faults = state.faults.after(
        number, finite, terms, gradients, resets=resets, limit=limit
    )
    return kept._replace(step=number, faults=faults), loss


def _updated(
    counts: jax.Array,
    state: TrainState,
    loss: jax.Array,
    norm: jax.Array,
    terms: losses.Terms,
    gradients: Any,
    recipe: StepConfig,
) -> TrainState:
    """Updates the state once more where it `counts`, else leaves it as it was.

    The step itself is not counted here.
    """
    chosen = functools.partial(
        jax.tree.map, lambda new, old: jnp.where(counts, new, old)
    )
    updates, opt_state = recipe.optimizer.update(
        gradients, state.opt_state, state.params
    )
    # chosen before averages read them: new parameters are then no array of their own
    params = chosen(optax.apply_updates(state.params, updates), state.params)
    made = state.step - state.faults.count
    if recipe.stage_steps < recipe.num_steps:
        made = state.step % recipe.stage_steps
    decay = ema.decay(made, limit=recipe.ema_limit, warmup=recipe.ema_warmup)
    updated = state._replace(
        opt_state=opt_state,
        ema=ema.update(state.ema, params, decay),
        sums=state.sums.add(loss, norm, terms, recipe.bins),
        moments=_updated_moments(state.moments, terms, recipe.model.objective),
        profiles=tuple(
            ema.power_update(average, params, made, gamma=gamma)
            for average, gamma in zip(state.profiles, recipe.gammas, strict=True)
        ),
    )
    return chosen(updated, state)._replace(params=params)


def _updated_moments(
    moments: times.LossMoments | None,
    terms: losses.Terms,
    objective: objectives.Objective,
) -> times.LossMoments | None:
    """Updates the moments of an adaptive proposal after the whole batch."""
    adaptive = times.adaptive_part(objective.proposal)
    if adaptive is None:
        return None
    return adaptive.update(moments, terms, schedule=objective.schedule)


class TrainBatch(NamedTuple):
    """What each example of a batch is trained on, `[batch, ...]`.

    Fields:
      values: stored, or floats of a coupling.
      labels: the null label where it was dropped.
      vectors: zeros where the label was dropped; None where the data have none.
      dropped: where that is.
      mask: of the values that count; None for all.
      keys: of the loss.
      t: training time; drawn for the whole batch, which may stratify it.
      eps: noise; None where it is drawn from the key.
    """

    values: jax.Array
    labels: jax.Array
    vectors: jax.Array | None
    dropped: jax.Array
    mask: jax.Array | None
    keys: jax.Array
    t: jax.Array
    eps: jax.Array | None


def loss_and_gradients(
    state: TrainState, batch: Examples, key: jax.Array, *, recipe: StepConfig
) -> tuple[tuple[jax.Array, losses.Terms], Any]:
    """Computes ((mean loss, terms), gradients) of the batch; arguments as `train_step`.

    With `recipe.accumulate` the batch is computed in parts, one after another: the same
    times, noise and labels, so the same gradient to rounding, in less memory. Masks of
    dropout differ, with the same law.
    """
    model = recipe.model
    proposal = times.with_moments(model.objective.proposal, state.moments)
    objective = dataclasses.replace(model.objective, proposal=proposal)
    example_key, dropout_key = random.split(random.fold_in(key, state.step))
    drawn = _draw(batch, example_key, objective, recipe)
    placement, params = recipe.placement, state.params
    if placement is not None:
        params = placement.gather(params)

    def mean_loss(
        params: Any, drawn: TrainBatch, dropout_key: jax.Array
    ) -> tuple[jax.Array, losses.Terms]:
        if model.method is not None:
            terms = _few_step_terms(params, dropout_key, drawn, state, recipe)
            return terms.loss.mean(), terms
        predict_fn = model.predict_fn(params, drawn.labels, dropout_key, drawn.vectors)
        x = model.transform.to_float(drawn.values)
        with platform.fused_attention(recipe.fused_attention):
            terms = losses.objective_terms(
                drawn.keys,
                predict_fn,
                x,
                objective=objective,
                t=drawn.t,
                eps=drawn.eps,
                mask=drawn.mask,
            )
        return terms.loss.mean(), terms

    each = jax.value_and_grad(mean_loss, has_aux=True)
    if recipe.accumulate == 1:
        terms, gradients = each(params, drawn, dropout_key)
    else:
        terms, gradients = grad_accumulation.mean_of_parts(
            lambda part, number: each(
                params, part, random.fold_in(dropout_key, number)
            ),
            drawn,
            recipe.accumulate,
        )
    if placement is not None:
        gradients = placement.shard(placement.gather(gradients))  # summed before
    return terms, gradients


def _draw(
    batch: Examples,
    key: jax.Array,
    objective: objectives.Objective,
    recipe: StepConfig,
) -> TrainBatch:
    """Draws conditions, times and keys of a batch, each example by its place's key."""
    number = jnp.arange(batch.labels.shape[0])
    loss_keys, label_keys = random.split(random.example_keys(key, number))
    dropped = random.uniform(label_keys, number.shape) < recipe.label_dropout
    labels = jnp.where(dropped, recipe.model.num_classes, batch.labels)
    vectors = batch.conditions
    if vectors is not None:
        vectors = jnp.where(dropped[:, None], 0, vectors)
    density = objective.proposal or objective.times
    t = density.sample(
        random.split(loss_keys)[0], number.shape, schedule=objective.schedule
    )
    values, eps = batch.values, batch.noise
    if recipe.coupled is not None:
        x = recipe.model.transform.to_float(values)
        classes = batch.labels if recipe.model.num_classes else None
        values, eps, *_ = recipe.coupled(loss_keys, x, classes)
    return TrainBatch(values, labels, vectors, dropped, batch.mask, loss_keys, t, eps)


def _few_step_terms(
    params: Any,
    dropout_key: jax.Array,
    drawn: TrainBatch,
    state: TrainState,
    recipe: StepConfig,
) -> losses.Terms:
    """Computes the loss of a few-step method for each example."""
    model, eps = recipe.model, drawn.eps
    x = model.transform.to_float(drawn.values)
    if eps is None:
        eps = random.normal(random.split(drawn.keys)[1], x.shape, x.dtype)
    guidance = None
    if recipe.guidance != 1 and state.teacher is None:
        guidance = jnp.where(drawn.dropped, 1.0, recipe.guidance)
    batch = methods.Batch(
        random.split(drawn.keys)[0],
        x,
        eps,
        stage=state.step // recipe.stage_steps,
        progress=state.step / recipe.num_steps,
        guidance=guidance,
    )
    networks = _networks(params, dropout_key, drawn, state, recipe)
    assert model.method is not None
    return model.method.terms(networks, batch, model.objective)


def _networks(
    params: Any,
    dropout_key: jax.Array,
    drawn: TrainBatch,
    state: TrainState,
    recipe: StepConfig,
) -> methods.Networks:
    """Makes the networks of a few-step method, with the labels of a batch."""
    model, fixed = recipe.model, (state.ema, state.teacher)
    if recipe.placement is not None:
        fixed = recipe.placement.gather(fixed)
    average, teacher = jax.lax.stop_gradient(fixed)
    scale = _teacher_guidance(state.step // recipe.stage_steps, recipe)

    def network(params: Any, key: Any, labels: Any, vectors: Any) -> methods.TwoTimeFn:
        predict_fn = model.predict_fn(params, labels, key, vectors)
        if model.two_times:
            return predict_fn
        return lambda z, t, s: predict_fn(z, t)

    def networks_at(place: Any) -> methods.Networks:
        given = jax.tree.map(lambda part: part[place], (drawn.labels, drawn.vectors))
        denoise_fn = None
        if teacher is not None:
            denoise_fn = model.denoise_fn(teacher, given[0], scale, given[1])
        return methods.Networks(
            student=network(params, dropout_key, *given),
            target=network(average, None, *given),
            teacher=denoise_fn,
            unconditional=network(params, dropout_key, *model.without(*given)),
            at_fn=networks_at,
        )

    return networks_at(slice(None))


def _teacher_guidance(stage: jax.Array, recipe: StepConfig) -> float | jax.Array:
    """Returns the guidance of a stage's teacher; later teachers have learned it."""
    method, scale = recipe.model.method, recipe.guidance
    if method is None or method.num_stages == 1 or scale == 1:
        return scale
    return jnp.where(stage == 0, scale, 1.0)
