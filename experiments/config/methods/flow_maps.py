"""Methods whose optimum is the flow map: MeanFlow, Lagrangian, and shortcut models."""

from typing import Any

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
)
from diffusionflow.objectives import Objective
from experiments.config.methods import (
    Batch,
    Method,
    Networks,
    check,
    diagonal,
    jump_settings,
    make_terms,
    pair_of_times,
)


@register
class MeanFlow(Method):
    """MeanFlow: the Eulerian loss, whose target has the derivative of the network.

    With a teacher its velocity takes the place of the pair's. Without one, guidance is
    learned from predictions of the network itself, with and without the label.

    Args:
      share: of examples with s = t, in [0, 1).
      times: density of both times, which are sorted.
      tangent: "pair" for the velocity of data and noise (MeanFlow), "own" for that of
        the network (improved MeanFlow).
      power: of the adaptive weight of `distillation.Adaptive`; 0 for none. Below about
        64 dimensions it changes what is learned.
      c: of the adaptive weight, positive.
      kappa: weight of the network's own prediction with the label where guidance is
        learned without a teacher, in [0, 1); see `distillation.guided_source`.

    Raises:
      ValueError: a value is out of bounds.

    Source: Geng et al. 2025, arXiv 2505.13447; own tangent: arXiv 2512.02012.
    """

    share: float = 0.5
    times: Any = times.Uniform()
    tangent: str = static(default="pair")
    power: float = 0.0
    c: float = 1e-3
    kappa: float = 0.0
    forward_mode = True
    guides_itself = True

    def __post_init__(self) -> None:
        check("share", self.share, 0 <= self.share < 1, "in [0, 1)")
        distillation.Adaptive(self.power, self.c)
        own = self.tangent in ("pair", "own")
        check("tangent", self.tangent, own, '"pair" or "own"')
        check("kappa", self.kappa, 0 <= self.kappa < 1, "in [0, 1)")

    def terms(
        self, networks: Networks, batch: Batch, objective: Objective
    ) -> losses.Terms:
        both = times.Two(self.times, self.share)
        t, s = pair_of_times(both, batch, objective)
        z = processes.add_noise(batch.x, batch.eps, t, schedule=objective.schedule)
        own = None
        if self.tangent == "own":
            own = jax.lax.stop_gradient(diagonal(networks.student, objective)(z, t))
        metric: distillation.Metric = distillation.squared
        if self.power:
            metric = distillation.Adaptive(self.power, self.c)
        loss = distillation.eulerian_loss(
            networks.student,
            z,
            t,
            s,
            self._source(networks, batch, z, t, objective),
            tangent=own,
            metric=metric,
            **jump_settings(objective),
        )
        return make_terms(loss, t, objective, jnp.nan if self.power else 1.0)

    def _source(
        self,
        networks: Networks,
        batch: Batch,
        z: jax.Array,
        t: jax.Array,
        objective: Objective,
    ) -> predictions.Denoised:
        """Returns what the diagonal learns: teacher or pair, with guidance if any."""
        if networks.teacher is not None:
            return networks.teacher(z, t)
        pair = predictions.Denoised(batch.x, batch.eps)
        if batch.guidance is None:
            return pair
        assert networks.unconditional is not None
        at = lambda predict_fn: diagonal(predict_fn, objective)(z, t)
        return distillation.guided_source(
            pair,
            at(networks.student) if self.kappa else pair,  # of weight kappa
            at(networks.unconditional),
            scale=batch.guidance,
            kappa=self.kappa,
        )


@register
class _SelfDistilled(Method):
    """A loss of jumps on some of the examples, and the objective itself on the others.

    The others have s = t and are spread evenly over the batch. Its examples are in
    random order, so which places they have says nothing about them.
    """

    share: float = 0.5
    times: Any = times.Uniform()
    takes_guidance = False  # the diagonal learns from the data

    def __post_init__(self) -> None:
        check("share", self.share, 0 < self.share < 1, "in (0, 1)")

    def jump_loss(
        self,
        networks: Networks,
        keys: jax.Array,
        z: jax.Array,
        t: jax.Array,
        s: jax.Array,
        objective: Objective,
    ) -> jax.Array:
        """Computes the loss of jumps from t to s, `[batch]`."""
        raise NotImplementedError

    def terms(
        self, networks: Networks, batch: Batch, objective: Objective
    ) -> losses.Terms:
        on, off = spread(batch.x.shape[0], self.share)
        own, student = batch.at(on), networks.at(on).student
        terms = losses.objective_terms(
            own.keys,
            lambda z, t: student(z, t, t),
            own.x,
            objective=objective,
            eps=own.eps,
        )
        rest = batch.at(off)
        t, s = pair_of_times(times.Two(self.times, 0.0), rest, objective)
        z = processes.add_noise(rest.x, rest.eps, t, schedule=objective.schedule)
        loss = self.jump_loss(networks.at(off), rest.keys, z, t, s, objective)
        back = np.argsort(np.concatenate([on, off]))
        both = terms, make_terms(loss, t, objective)
        return jax.tree.map(lambda *parts: jnp.concatenate(parts)[back], *both)


def spread(count: int, share: float) -> tuple[np.ndarray, np.ndarray]:
    """Splits `count` examples into an evenly spread share of places, and the others."""
    number = np.arange(count)
    rising = np.floor((1 + number) * share) > np.floor(number * share)
    return np.flatnonzero(rising), np.flatnonzero(~rising)


@register
class Lagrangian(_SelfDistilled):
    """Lagrangian self-distillation, and the ordinary loss on the diagonal.

    The velocity at s is that of the teacher, or of the averaged weights.

    Args:
      share: of examples on the diagonal, in (0, 1).
      times: density of both times, which are sorted.

    Raises:
      ValueError: `share` is out of bounds.

    Source: Boffi et al. 2025, arXiv 2505.18825 (LSD).
    """

    forward_mode = True

    def jump_loss(
        self,
        networks: Networks,
        keys: jax.Array,
        z: jax.Array,
        t: jax.Array,
        s: jax.Array,
        objective: Objective,
    ) -> jax.Array:
        del keys
        velocity_fn = networks.teacher or diagonal(networks.target, objective)
        return distillation.lagrangian_loss(
            networks.student, z, t, s, velocity_fn, **jump_settings(objective)
        )


@register
class Shortcut(_SelfDistilled):
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

    takes_teacher = False

    def jump_loss(
        self,
        networks: Networks,
        keys: jax.Array,
        z: jax.Array,
        t: jax.Array,
        s: jax.Array,
        objective: Objective,
    ) -> jax.Array:
        between = random.uniform(random.fold_in(keys, 1), t.shape)
        m = s + (t - s) * between
        return distillation.semigroup_loss(
            networks.student, z, t, m, s, **jump_settings(objective)
        )
