"""Solvers of the probability-flow ODE, along the angle of `samplers.angular`."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from diffusionflow import _xp as xp
from diffusionflow._dataclass import (
    check_bound,
    check_count,
    check_name,
    register,
    static,
)
from diffusionflow._numeric import floating, in_float64
from diffusionflow.samplers import adaptive, angular, tableaus
from diffusionflow.schedules import Schedule

# (level, state, what `each` is given for an example) -> slopes; see `Fixed.solve`
Slopes = Callable[[angular.Level, Any, Any], Any]

METHODS = {"heun": tableaus.HEUN, "rk4": tableaus.RK4}


class Integrated(NamedTuple):
    """Solution of the ODE, with its NFE.

    Fields:
      state: at the last time.
      done: whether the last time was reached and all is finite, `[*batch]`.
      evaluations: NFE (number of function evaluations) of the field, a number or
        `[*batch]`.
    """

    state: Any
    done: Array
    evaluations: int | Array


@register
class Fixed:
    """Fixed-step Runge-Kutta solver: `num_steps` steps, equal in `angle^(1 / power)`.

    With a power above 1 they are shorter near the data, where the divergence of sharp
    data changes fast. It needs no other package. The denoiser is called on the whole
    batch. Levels are computed in float64 on the host where the schedule is concrete.

    Args:
      num_steps: at least 1.
      method: "rk4" (order 4, four evaluations a step) or "heun" (order 2, two).
      power: at least 1, of equal steps in the angle.

    Raises:
      ValueError: no step, the method is unknown, or the power is below 1.
    """

    num_steps: int = static(default=50)
    method: str = static(default="rk4")
    power: float = static(default=1.0)

    def __post_init__(self) -> None:
        check_count("num_steps", self.num_steps)
        check_name("method", self.method, METHODS)
        check_bound("power", self.power, lambda p: 1 <= p < 100, "in [1, 100)")

    def example(self, z: Array, batch_ndim: int) -> Array:
        """Returns an array of the shape that the denoiser is called with."""
        del batch_ndim
        return z

    def times(self, t0: ArrayLike, t1: ArrayLike, *, schedule: Schedule) -> Array:
        """Returns the times of evaluation of the field, `[num_steps, num_stages]`."""
        return self._plan(schedule, t0, t1)[0].t

    def solve(
        self,
        slopes: Slopes,
        state: Any,
        given: Any,
        t0: ArrayLike,
        t1: ArrayLike,
        *,
        schedule: Schedule,
        batch_ndim: int,
    ) -> Integrated:
        """Integrates `d state / d angle = slopes(level, state, given)`.

        Args:
          slopes: of the whole batch, for a scalar level.
          state: `(y, *others)` at `t0`, `[*batch, *event]` and `[num, *batch]`.
          given: constants, `[num, *batch, ...]`.
          t0: first time, scalar.
          t1: last time, scalar.
          schedule: any.
          batch_ndim: number of batch axes.

        Returns:
          `Integrated`.
        """
        like = lambda part: jnp.asarray(part, state[0].dtype)
        rows = jax.tree.map(like, self._plan(schedule, t0, t1))
        tableau = METHODS[self.method]

        def step(state: Any, row: tuple[angular.Level, Array]) -> tuple[Any, None]:
            levels, widths = row
            stages: list[Any] = []
            for number, shares in enumerate(tableau.a):
                level = angular.Level(*(part[number] for part in levels))
                slope = slopes(level, _moved(state, stages, shares), given)
                scaled = lambda part, width=widths[number]: width * part
                stages.append(jax.tree.map(scaled, slope))
            return _moved(state, stages, tableau.b), None

        state, _ = jax.lax.scan(step, state, rows)
        y, *others = state
        event = tuple(range(batch_ndim, y.ndim))
        done = jnp.isfinite(y).all(axis=event)
        for other in others:
            done = done & jnp.isfinite(other).all(axis=0)
        return Integrated(state, done, self.num_steps * len(tableau.c))

    def _plan(
        self, schedule: Schedule, t0: ArrayLike, t1: ArrayLike
    ) -> tuple[angular.Level, Array]:
        """Computes levels and widths of every stage, `[num_steps, num_stages]`.

        With `u = (angle - low) / (high - low)` to the power `1 / power`, a stage is as
        wide as `num_steps` equal steps of u would be in the angle if the derivative
        were what it is at the stage: the slope with respect to u, of the same order.
        """

        def plan(
            schedule: Schedule, t0: Array, t1: Array
        ) -> tuple[angular.Level, Array]:
            t0, t1 = floating(t0), floating(t1)
            (start, _), (end, _) = (
                angular.angle(t, schedule=schedule) for t in (t0, t1)
            )
            nodes = np.asarray(METHODS[self.method].c, start.dtype)
            steps = np.arange(self.num_steps, dtype=start.dtype)
            fraction = (steps[:, None] + nodes[None]) / self.num_steps
            u = xp.where(start <= end, fraction, 1 - fraction)
            low, high = xp.minimum(start, end), xp.maximum(start, end)
            share = u**self.power
            places = (1 - share) * low + share * high  # exact at both ends
            level = angular.level(places, t0, t1, schedule=schedule)
            growth = self.power * u ** (self.power - 1)
            return level, (end - start) * growth / self.num_steps

        return in_float64(plan, schedule, t0, t1)


@register
class Adaptive:
    """Adaptive-step solver (Tsitouras' method of order 5), through diffrax.

    Every example has its own steps and its own outcome. The denoiser is called under
    `vmap` on batches of one: conditioning that it closes over must not have a batch
    axis; with a condition for each example, `vmap` a call with `batch_ndim=0` over
    both.

    Args:
      rtol: relative tolerance of a step.
      atol: absolute tolerance, in units of `z / sqrt(alpha^2 + sigma^2)` and in nats.
      max_steps: cap on attempted steps, so that a stiff field ends too.

    Raises:
      ValueError: a tolerance is not positive, or `max_steps` is below 1.
      ImportError: diffrax is missing, where it is used.
    """

    rtol: float = 1e-5
    atol: float = 1e-5
    max_steps: int = static(default=1000)

    def __post_init__(self) -> None:
        adaptive.check_tolerances(self.rtol, self.atol, self.max_steps)

    def example(self, z: Array, batch_ndim: int) -> Array:
        """Returns an array of the shape that the denoiser is called with."""
        return z[(slice(1),) * batch_ndim]

    def times(self, t0: ArrayLike, t1: ArrayLike, *, schedule: Schedule) -> Array:
        """Returns both ends; the times between them are not known in advance."""
        del schedule
        return jnp.stack([jnp.asarray(t0), jnp.asarray(t1)])

    def solve(
        self,
        slopes: Slopes,
        state: Any,
        given: Any,
        t0: ArrayLike,
        t1: ArrayLike,
        *,
        schedule: Schedule,
        batch_ndim: int,
    ) -> Integrated:
        """Integrates with adaptive steps; arguments as in `Fixed.solve`."""
        like = lambda part: jnp.asarray(part, state[0].dtype)
        t0, t1 = like(t0), like(t1)
        (start, _), (end, _) = (angular.angle(t, schedule=schedule) for t in (t0, t1))

        def one(state: Any, given: Any) -> tuple[Any, Array, Array]:
            field = lambda place, state: slopes(
                angular.level(place, t0, t1, schedule=schedule), state, given
            )
            return adaptive.integrate(
                field, start, end, state, self.rtol, self.atol, self.max_steps
            )

        for axis in reversed(range(batch_ndim)):
            one = _over_examples(one, axis, len(state) - 1)
        state, done, steps = one(state, given)
        return Integrated(state, done, 1 + 6 * steps)


def _over_examples(one: Callable, axis: int, num_others: int) -> Callable:
    """Maps `one` over the examples along a batch axis, seen as a batch of one."""
    axes = (axis, *[axis + 1] * num_others)

    def single(state: Any, given: Any) -> Any:
        state = tuple(map(jnp.expand_dims, state, axes))
        state, done, steps = one(state, jnp.expand_dims(given, axis + 1))
        return tuple(map(jnp.squeeze, state, axes)), done, steps

    return jax.vmap(single, in_axes=(axes, axis + 1), out_axes=(axes, 0, 0))


def _moved(state: Any, slopes: list, shares: tuple[float, ...]) -> Any:
    """Computes `state + sum_j shares_j slopes_j`, the slopes times their widths."""
    used = [pair for pair in zip(shares, slopes, strict=True) if pair[0]]
    add = lambda part, *terms: (
        part + sum(share * slope for (share, _), slope in zip(used, terms, strict=True))
    )
    return jax.tree.map(add, state, *(slope for _, slope in used)) if used else state
