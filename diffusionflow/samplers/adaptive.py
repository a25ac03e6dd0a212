"""Integrates the probability-flow ODE with adaptive steps, through diffrax.

Variable and state of the integration are those of `angular`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from diffusionflow._dataclass import check_batch_ndim, check_count, check_positive
from diffusionflow._numeric import root
from diffusionflow.predictions import (
    DenoiseFn,
    as_data,
    as_denoiser,
    check_unit_interval,
)
from diffusionflow.samplers import angular
from diffusionflow.samplers.nfe import times_calls
from diffusionflow.samplers.steps import check_times
from diffusionflow.schedules import Schedule, as_schedule


class Solution(NamedTuple):
    """Solution of the probability-flow ODE, from `solve`.

    Fields:
      x: z at `t1`, `[*batch, *event]`, at sigma = 0 finalized
        (`Denoiser.finalize`); infinite where `done` is False.
      done: whether `t1` was reached within the tolerances, bool `[*batch]`. It is False
        where `max_steps` were not enough or the field was not finite.
      steps: attempted steps, rejected ones included, `[*batch]`.
      nfe: NFE, the number of function evaluations (network calls), `[*batch]`; None
        where the calls of one evaluation are unknown or depend on its time
        (`guidance.limited`).
    """

    x: Array
    done: Array
    steps: Array
    nfe: Array | None


def solve(
    denoise_fn: DenoiseFn,
    z: Array,
    t0: ArrayLike,
    t1: ArrayLike,
    *,
    schedule: Schedule,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    max_steps: int = 1000,
    batch_ndim: int = 1,
) -> Solution:
    """Integrates the probability-flow ODE from `t0` to `t1`, in either direction.

    Every example has its own steps (Tsitouras' method of order 5, six calls a step) and
    its own outcome; no example changes another's result.

    Args:
      denoise_fn: `(z, t) -> Denoised`, called on one example `[*event]` with scalar t,
        under `vmap`: conditioning that it closes over must not have a batch axis. With
        a condition for each example, `vmap` a call with `batch_ndim=0` over both.
      z: at `t0`, `[*batch, *event]`.
      t0: first time, scalar: 1 to sample, 0 to encode.
      t1: last time, scalar.
      schedule: the one of `denoise_fn`.
      rtol: relative tolerance of a step.
      atol: absolute tolerance, in units of `z / sqrt(alpha^2 + sigma^2)`.
      max_steps: cap on attempted steps, so that a stiff field ends too.
      batch_ndim: number of leading batch axes.

    Returns:
      `Solution`.

    Raises:
      ImportError: diffrax is missing.
      ValueError: a tolerance is not positive, `max_steps` is below 1, a time is outside
        [0, 1], or `denoise_fn` is singular at one (eps at alpha = 0, x at sigma = 0).
    """
    check_tolerances(rtol, atol, max_steps)
    z = as_data(z, "z")
    check_batch_ndim(batch_ndim, z.ndim)
    example = jax.ShapeDtypeStruct(z.shape[batch_ndim:], z.dtype)
    denoiser = as_denoiser(denoise_fn, like=example, schedule=as_schedule(schedule))
    for name, t in (("t0", t0), ("t1", t1)):
        check_unit_interval(name, t)
        check_times(denoiser, t, z)
    t0, t1 = jnp.asarray(t0, z.dtype), jnp.asarray(t1, z.dtype)
    start, first = angular.angle(t0, schedule=schedule)
    end, last = angular.angle(t1, schedule=schedule)

    def field(angle: Array, y: Array) -> Array:
        return angular.slope(
            denoiser, y, angular.level(angle, t0, t1, schedule=schedule)
        )

    def one(z: Array) -> tuple[Array, Array, Array]:
        y, done, steps = integrate(
            field, start, end, z / first.astype(z.dtype), rtol, atol, max_steps
        )
        x = y * last.astype(z.dtype)
        x = jnp.where(schedule.sigma(t1) == 0, denoiser.finalize(x), x)
        return jnp.where(done, x, jnp.inf), done, steps

    for _ in range(batch_ndim):
        one = jax.vmap(one)
    x, done, steps = one(z)
    return Solution(x, done, steps, times_calls(denoiser, 1 + 6 * steps))


def check_tolerances(rtol: float, atol: float, max_steps: int) -> None:
    """Raises a `ValueError` where tolerances or `max_steps` are not positive."""
    check_positive("rtol", rtol)
    check_positive("atol", atol)
    check_count("max_steps", max_steps)


def integrate(
    field: Callable[[Array, Any], Any],
    start: Array,
    end: Array,
    state: Any,
    rtol: float,
    atol: float,
    max_steps: int,
) -> tuple[Any, Array, Array]:
    """Integrates one example by Tsitouras' method of order 5 (Tsit5).

    Args:
      field: `(clock, state) -> slopes`.
      start: first value of the clock, scalar.
      end: last one.
      state: a pytree at `start`; each of its arrays keeps to the tolerances by itself.
      rtol: relative tolerance of a step.
      atol: absolute tolerance.
      max_steps: cap on attempted steps.

    Returns:
      The state at `end`, whether it was reached and is finite, and attempted steps.

    Raises:
      ImportError: diffrax is missing.
    """
    diffrax = _diffrax()
    # diffrax is written for standard promotion
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(lambda clock, state, args: field(clock, state)),
            diffrax.Tsit5(),
            start,
            end,
            (end - start) / 100,
            state,
            stepsize_controller=diffrax.PIDController(rtol, atol, norm=_largest),
            max_steps=max_steps,
            throw=False,
        )
    state = jax.tree.map(lambda values: values[0], solution.ys)
    finite = [jnp.isfinite(part).all() for part in jax.tree.leaves(state)]
    reached = solution.result == diffrax.RESULTS.successful
    return state, reached & jnp.stack(finite).all(), solution.stats["num_steps"]


def _largest(error: Any) -> Array:
    """Returns the largest root mean square of the arrays in `error`."""
    squares = [jnp.mean(part**2) for part in jax.tree.leaves(error)]
    return root(jnp.max(jnp.stack(squares)))


def _diffrax() -> Any:
    try:
        import diffrax
    except ImportError as error:
        raise ImportError(
            'steps of adaptive length need diffrax: pip install "diffusionflow[ode]"'
        ) from error
    return diffrax
