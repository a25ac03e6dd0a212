"""Training methods for few-step models: what `config.distillation.method` names.

A method gives the loss of a two-time network `P(z, t, s)`, whose prediction at `(z, t)`
carries DDIM to s. The objective of the config stays what it is on the diagonal s = t:
schedule, prediction type and weighting are taken from there. A method of your own is a
class derived from `Method` and registered by `diffusionflow.register`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffusionflow import (
    distillation,
    losses,
    predictions,
    processes,
    random,
    register,
    static,
    times,
    weightings,
)
from diffusionflow.objectives import Objective

TwoTimeFn = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


class Networks(NamedTuple):
    """The networks of a training step.

    Fields:
      student: `(z, t, s) -> prediction`, which is trained.
      target: the same of the averaged weights.
      teacher: `(z, t) -> Denoised`, or None.
      at_fn: gives the networks of the examples at some places, whose labels they know.
    """

    student: TwoTimeFn
    target: TwoTimeFn
    teacher: predictions.DenoiseFn | None
    at_fn: Callable[[np.ndarray], "Networks"] | None = None

    def at(self, place: np.ndarray) -> "Networks":
        """The networks of the examples at `place`."""
        return self if self.at_fn is None else self.at_fn(place)


class Batch(NamedTuple):
    """What a training step computes the loss of.

    Fields:
      keys: `[batch]`.
      x: data, `[batch, *event]`.
      eps: noise, like `x`.
      stage: number of the stage, from 0; int32.
      progress: fraction of the run that is done, in [0, 1).
    """

    keys: jax.Array
    x: jax.Array
    eps: jax.Array
    stage: jax.Array
    progress: jax.Array

    def at(self, place: np.ndarray) -> "Batch":
        """The examples at `place`."""
        keys, x, eps = (part[place] for part in self[:3])
        return self._replace(keys=keys, x=x, eps=eps)


class Method:
    """Base class of training methods: subclasses give `terms`.

    Attributes:
      needs_teacher: whether it cannot be trained without a teacher.
      takes_teacher: whether it learns from a teacher where there is one; else a teacher
        gives its first weights alone.
      takes_guidance: whether the teacher may be guided: all that is learned is then
        learned from it.
      needs_noise: whether the data must be pairs of noise and sample.
      two_times: whether the network is given s; else t implies it.
      diagonal: whether the network at s = t is an ordinary one-time prediction, so that
        held-out losses and likelihoods mean something.
      forward_mode: whether the loss differentiates the network in its times.
    """

    needs_teacher = False
    takes_teacher = True
    takes_guidance = True
    needs_noise = False
    two_times = True
    diagonal = True
    forward_mode = False

    @property
    def num_stages(self) -> int:
        """Stages of equal length; at each the averaged student becomes the teacher."""
        return 1

    def terms(
        self, networks: Networks, batch: Batch, objective: Objective
    ) -> losses.Terms:
        """Computes the loss of each example.

        Args:
          networks: student, target and teacher.
          batch: examples, with their keys and noise.
          objective: schedule, prediction type, and weighting of the diagonal.

        Returns:
          `losses.Terms`.
        """
        raise NotImplementedError(f"{type(self).__name__} must define terms")


@register
class MeanFlow(Method):
    """MeanFlow: the Eulerian loss, whose target has the derivative of the network.

    With a teacher its velocity takes the place of the pair's.

    Args:
      share: of examples with s = t, in [0, 1).
      times: density of both times, which are sorted.
      tangent: "pair" for the velocity of data and noise (MeanFlow), "own" for that of
        the network (improved MeanFlow).
      power: of the adaptive weight of `distillation.Adaptive`; 0 for none. Below about
        64 dimensions it changes what is learned.
      c: of the adaptive weight, positive.

    Raises:
      ValueError: a value is out of bounds.

    Source: Geng et al. 2025, arXiv 2505.13447; own tangent: arXiv 2512.02012.
    """

    share: float = 0.5
    times: Any = times.Uniform()
    tangent: str = static(default="pair")
    power: float = 0.0
    c: float = 1e-3
    forward_mode = True

    def __post_init__(self) -> None:
        _check("share", self.share, 0 <= self.share < 1, "in [0, 1)")
        distillation.Adaptive(self.power, self.c)
        own = self.tangent in ("pair", "own")
        _check("tangent", self.tangent, own, '"pair" or "own"')

    def terms(
        self, networks: Networks, batch: Batch, objective: Objective
    ) -> losses.Terms:
        both = times.Two(self.times, self.share)
        t, s = _pair_of_times(both, batch, objective)
        z = processes.add_noise(batch.x, batch.eps, t, schedule=objective.schedule)
        source = predictions.Denoised(batch.x, batch.eps)
        if networks.teacher is not None:
            source = networks.teacher(z, t)
        own = None
        if self.tangent == "own":
            own = jax.lax.stop_gradient(_diagonal(networks.student, objective)(z, t))
        metric: distillation.Metric = distillation.squared
        if self.power:
            metric = distillation.Adaptive(self.power, self.c)
        loss = distillation.eulerian_loss(
            networks.student,
            z,
            t,
            s,
            source,
            tangent=own,
            metric=metric,
            **_settings(objective),
        )
        return _terms(loss, t, objective, jnp.nan if self.power else 1.0)


@register
class Lagrangian(Method):
    """Lagrangian self-distillation, and the ordinary loss on the diagonal.

    The velocity at s is that of the teacher, or of the averaged weights.

    Args:
      share: of examples on the diagonal, in (0, 1).
      times: density of both times, which are sorted.

    Raises:
      ValueError: `share` is out of bounds.

    Source: Boffi et al. 2025, arXiv 2505.18825 (LSD).
    """

    share: float = 0.5
    times: Any = times.Uniform()
    takes_guidance = False  # the diagonal learns from the data
    forward_mode = True

    def __post_init__(self) -> None:
        _check("share", self.share, 0 < self.share < 1, "in (0, 1)")

    def terms(
        self, networks: Networks, batch: Batch, objective: Objective
    ) -> losses.Terms:
        def off_diagonal(networks: Networks, batch: Batch) -> losses.Terms:
            velocity_fn = networks.teacher or _diagonal(networks.target, objective)
            t, s = _pair_of_times(times.Two(self.times, 0.0), batch, objective)
            z = processes.add_noise(batch.x, batch.eps, t, schedule=objective.schedule)
            loss = distillation.lagrangian_loss(
                networks.student, z, t, s, velocity_fn, **_settings(objective)
            )
            return _terms(loss, t, objective)

        return _with_diagonal(off_diagonal, self.share, networks, batch, objective)


@register
class Shortcut(Method):
    """Semigroup self-distillation: one jump is to land where two land.

    Args:
      share: of examples on the diagonal, in (0, 1).
      times: density of both times, which are sorted; the time between is uniform
        between them.

    Raises:
      ValueError: `share` is out of bounds.

    Source: Frans et al. 2024, arXiv 2410.12557, with continuous times as PSD of
    Boffi et al. 2025, arXiv 2505.18825.
    """

    share: float = 0.5
    times: Any = times.Uniform()
    takes_teacher = False
    takes_guidance = False

    def __post_init__(self) -> None:
        _check("share", self.share, 0 < self.share < 1, "in (0, 1)")

    def terms(
        self, networks: Networks, batch: Batch, objective: Objective
    ) -> losses.Terms:
        def off_diagonal(networks: Networks, batch: Batch) -> losses.Terms:
            t, s = _pair_of_times(times.Two(self.times, 0.0), batch, objective)
            between = random.uniform(random.fold_in(batch.keys, 1), t.shape)
            m = s + (t - s) * between
            z = processes.add_noise(batch.x, batch.eps, t, schedule=objective.schedule)
            loss = distillation.semigroup_loss(
                networks.student, z, t, m, s, **_settings(objective)
            )
            return _terms(loss, t, objective)

        return _with_diagonal(off_diagonal, self.share, networks, batch, objective)


@register
class Consistency(Method):
    """Consistency model: jumps to the data from neighbouring times are to agree.

    The levels are uniform times; their number doubles in steps of equal length. With a
    teacher the earlier point is one DDIM step of it (distillation), else the same pair
    at the earlier time (training), whose optimum on N levels is DDIM over these levels.

    Args:
      first: levels at the start, at least 1.
      last: levels at the end, `first` times a power of 2.

    Raises:
      ValueError: a number of levels is out of bounds.

    Source: Song et al. 2023, arXiv 2303.01469; doubling: Song and Dhariwal 2023, arXiv
    2310.14189.
    """

    first: int = static(default=8)
    last: int = static(default=128)
    two_times = False
    diagonal = False

    def __post_init__(self) -> None:
        _check_doubled("last", self.last, "first", self.first)

    def terms(
        self, networks: Networks, batch: Batch, objective: Objective
    ) -> losses.Terms:
        schedule = objective.schedule
        doublings = int(np.log2(self.last // self.first))
        power = jnp.floor(batch.progress * (doublings + 1))
        t, earlier = _neighbours(self.first * 2.0**power, batch)
        z = processes.add_noise(batch.x, batch.eps, t, schedule=schedule)
        pair = predictions.Denoised(batch.x, batch.eps)
        if networks.teacher is not None:
            pair = jax.lax.stop_gradient(networks.teacher(z, t))
        z_earlier = processes.add_noise(pair.x, pair.eps, earlier, schedule=schedule)
        loss = distillation.consistency_loss(
            networks.student, z, t, z_earlier, earlier, **_settings(objective)
        )
        return _terms(loss, t, objective)


@register
class Progressive(Method):
    """Progressive distillation: one step of the student is two of its teacher.

    A stage halves the number of steps; at its end the averaged student is the teacher
    of the next, with an optimizer and learning rate that begin again. The optimum is
    DDIM in `first` steps. The student is a one-time network.

    Args:
      first: steps of the teacher in the first stage.
      last: steps of the student in the last stage; `first` is it times a power of 2.

    Raises:
      ValueError: a number of steps is out of bounds.

    Source: Salimans and Ho 2022, arXiv 2202.00512, algorithm 2.
    """

    first: int = static(default=32)
    last: int = static(default=1)
    needs_teacher = True
    two_times = False
    diagonal = False

    def __post_init__(self) -> None:
        _check_doubled("first", self.first, "last", self.last)

    @property
    def num_stages(self) -> int:
        return int(np.log2(self.first // self.last))

    def steps_of_stage(self, stage: Any) -> Any:
        """Steps of the student in a stage, counted from 0."""
        return self.first * 0.5 ** (1.0 + stage)

    def terms(
        self, networks: Networks, batch: Batch, objective: Objective
    ) -> losses.Terms:
        assert networks.teacher is not None
        t, s = _neighbours(self.steps_of_stage(batch.stage.astype(jnp.float32)), batch)
        settings = _settings(objective)
        z = processes.add_noise(batch.x, batch.eps, t, schedule=objective.schedule)
        wanted = distillation.progressive_targets(
            networks.teacher, z, t, (t + s) / 2, s, **settings
        )
        wanted = jax.lax.stop_gradient(wanted)
        error = _mean_square(networks.student(z, t, s) - wanted)
        weight = weightings.weight_on(
            objective.weighting, objective.kind, t, schedule=objective.schedule
        )
        return _terms(weight * error, t, objective, weight)


@register
class Reflow(Method):
    """Rectified flow again: the objective itself on pairs of noise and sample.

    The data are pairs that `experiments.pairs` wrote. Paths straighten, so that few
    steps of any sampler do.

    Source: Liu et al. 2022, arXiv 2209.03003.
    """

    takes_teacher = False
    takes_guidance = False
    needs_noise = True
    two_times = False

    def terms(
        self, networks: Networks, batch: Batch, objective: Objective
    ) -> losses.Terms:
        predict_fn = lambda z, t: networks.student(z, t, t)
        return losses.objective_terms(
            batch.keys, predict_fn, batch.x, objective=objective, eps=batch.eps
        )


@register
class OneStep(Method):
    """One-step distillation: the jump from noise to data is regressed on pairs.

    The data are pairs of noise and sample that `experiments.pairs` wrote; the optimum
    is the sampler that made them.

    Source: Luhman and Luhman 2021, arXiv 2101.02388.
    """

    takes_teacher = False
    takes_guidance = False
    needs_noise = True
    two_times = False
    diagonal = False

    def terms(
        self, networks: Networks, batch: Batch, objective: Objective
    ) -> losses.Terms:
        t = jnp.ones(batch.x.shape[:1], batch.x.dtype)
        s = jnp.zeros_like(t)
        # the prior of samplers, which leaves the data's part out
        sigma = jnp.asarray(objective.schedule.sigma(1.0), batch.x.dtype)
        z = sigma * batch.eps
        settings = _settings(objective)
        x = distillation.jump(networks.student(z, t, s), z=z, t=t, s=s, **settings)
        alpha = jnp.asarray(objective.schedule.alpha(0.0), x.dtype)
        return _terms(_mean_square(x / alpha - batch.x), t, objective)


def _check(name: str, value: Any, holds: bool, bound: str) -> None:
    if not holds:
        raise ValueError(f"{name}={value!r}: must be {bound}")


def _check_doubled(name: str, value: int, other: str, least: int) -> None:
    _check(other, least, least >= 1, "at least 1")
    ratio = value // least
    power = value == ratio * least and ratio > 1 and ratio & (ratio - 1) == 0
    _check(name, value, power, f"{other}={least} times 2, 4, 8 or so on")


def _settings(objective: Objective) -> dict[str, Any]:
    return dict(kind=objective.kind, schedule=objective.schedule)


def _diagonal(predict_fn: TwoTimeFn, objective: Objective) -> predictions.DenoiseFn:
    """The one-time denoiser of a two-time network."""
    return distillation.flow_map(predict_fn, **_settings(objective))


def _pair_of_times(
    density: Any, batch: Batch, objective: Objective
) -> tuple[jax.Array, jax.Array]:
    keys = random.fold_in(batch.keys, 0)
    return density.sample(keys, batch.x.shape[:1], schedule=objective.schedule)


def _neighbours(count: jax.Array, batch: Batch) -> tuple[jax.Array, jax.Array]:
    """A random time of `1/count, ..., 1` for each example, and the one below it."""
    drawn = random.uniform(random.fold_in(batch.keys, 0), batch.x.shape[:1])
    number = jnp.minimum(jnp.floor(drawn * count), count - 1)
    return (number + 1) / count, number / count


def _with_diagonal(
    off_diagonal_fn: Callable[[Networks, Batch], losses.Terms],
    share: float,
    networks: Networks,
    batch: Batch,
    objective: Objective,
) -> losses.Terms:
    """The objective itself on a share of the examples, spread evenly, and a loss else.

    Examples of a batch are in random order, so which places they have tells nothing.
    """
    count = batch.x.shape[0]
    rising = np.floor((1 + np.arange(count)) * share) > np.floor(
        np.arange(count) * share
    )
    on, off = np.flatnonzero(rising), np.flatnonzero(~rising)
    diagonal, student = batch.at(on), networks.at(on).student
    terms = losses.objective_terms(
        diagonal.keys,
        lambda z, t: student(z, t, t),
        diagonal.x,
        objective=objective,
        eps=diagonal.eps,
    )
    parts = [terms, off_diagonal_fn(networks.at(off), batch.at(off))]
    back = np.argsort(np.concatenate([on, off]))
    return jax.tree.map(lambda *both: jnp.concatenate(both)[back], *parts)


def _mean_square(error: jax.Array) -> jax.Array:
    """Mean over the event, `[batch]`."""
    return (error**2).reshape(len(error), -1).mean(1)


def _terms(
    loss: jax.Array, t: jax.Array, objective: Objective, weight: Any = 1.0
) -> losses.Terms:
    """Terms whose `eps_mse` is the squared error of the prediction in units of eps.

    It is NaN where the weight is: where the loss is no weighted squared error.
    """
    ratio = predictions.error_ratio(
        "eps", objective.kind, t, schedule=objective.schedule
    )
    return losses.Terms(
        loss=loss,
        t=t,
        logsnr=objective.schedule.logsnr(t),
        eps_mse=ratio * loss / weight,
        importance=jnp.ones_like(loss),
    )
