"""Plan, run, sample: what all samplers share.

A sampler has `num_noises` and four methods:

- `plan(t, s, schedule)`: the steps from times `t` to `s`, `[num_steps]` each, as a
  pytree of arrays with leading axis `num_steps`. A column `calls` counts the
  evaluations of `denoise_fn` in each step; without it there is one. The times that
  `step` hands to `denoise_fn` are columns too, and of the evaluations that it contains
  the first `calls` are those that are made.
- `init(z)`: the state that `run` carries, made from the first `z`.
- `step(state, row, noise, denoise_fn)`: one step with its row of the plan and noise
  `[num_noises, *z.shape]`.
- `output(state)`: the `z` in a state.

The plan is data: one compiled `run` serves every schedule, grid and coefficient.

Of `denoise_fn` all that is needed is `(z, t) -> Denoised`. What else it may have is
used: `cost` and `calls(t)`, network calls per evaluation; `check(t)`, which raises
where it cannot be evaluated; `finish(x)`, what it knows of the data put into samples.
"""

from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from diffusionflow import grids, random
from diffusionflow._dataclass import calls, is_traced
from diffusionflow._numeric import at_least_float32, in_float64
from diffusionflow.predictions import DenoiseFn
from diffusionflow.samplers.steps import as_grid, check_denoiser, table
from diffusionflow.schedules import Schedule


class Sampler(Protocol):
    """What every sampler offers; see the module.

    Fields:
      num_noises: arrays of noise that a step takes.
    """

    num_noises: int

    def plan(self, t: Array, s: Array, schedule: Schedule) -> Any:
        """The steps from times `t` to `s`, a pytree of arrays `[num_steps, ...]`."""

    def init(self, z: Array) -> Any:
        """The state of a run that starts from `z`."""

    def step(self, state: Any, row: Any, noise: Array, denoise_fn: DenoiseFn) -> Any:
        """The state after a step with its row of the plan."""

    def output(self, state: Any) -> Array:
        """The `z` in a state."""


class Result(NamedTuple):
    """What a sampler returns.

    Fields:
      x: the samples, `[*batch, *event]`.
      nfe: network calls, guidance and second stages included.
      trajectory: the states from the first `z` to `x`, `[num_states, *batch, *event]`,
        or None.
    """

    x: Array
    nfe: ArrayLike
    trajectory: Array | None


def prior(
    key: Array, shape: tuple[int, ...], *, schedule: Schedule, t: ArrayLike = 1.0
) -> Array:
    """The noise that samplers start from: `sigma_t N(0, I)`.

    Args:
      key: scalar, or typed keys `[*batch]` where `shape` is `[*batch, *event]`.
      shape: of the result.
      schedule: gives sigma.
      t: scalar, the first time of the grid.

    Returns:
      Array of `shape`. Where `alpha_t > 0` this is not exactly the law of `z_t`: the
      data's share `alpha_t x` is left out.
    """
    noise = random.normal(key, shape)
    return schedule.sigma(t).astype(noise.dtype) * noise


def plan(sampler: Sampler, times: ArrayLike, schedule: Schedule) -> Any:
    """Every coefficient and level of every step.

    Args:
      sampler: any.
      times: a grid, `[num_steps + 1]`, falling.
      schedule: any.

    Returns:
      A pytree with leading axis `num_steps`: NumPy float64 where all is concrete,
      traced arrays elsewhere.

    Raises:
      ValueError: `times` is no grid.
    """
    return table(sampler, as_grid(grids.check_grid(times)), schedule)


def run(
    key: Array | None,
    denoise_fn: DenoiseFn,
    z: Array,
    rows: Any,
    *,
    sampler: Sampler,
    noise: Any = None,
    trajectory: bool = False,
) -> Result:
    """Applies a plan, one scan over its rows.

    Args:
      key: for the noise; scalar or `[*batch]`. None where the sampler draws none.
      denoise_fn: `(z, t) -> Denoised`.
      z: start, `[*batch, *event]`.
      rows: from `plan`; cast to the type of `z`.
      sampler: the one that made `rows`.
      noise: `random.Independent()` if None, or another source.
      trajectory: whether to return all states.

    Returns:
      `Result`.

    Raises:
      ValueError: a key is missing, or `noise` is for another number of steps.
    """
    z = at_least_float32(z)
    num_steps = jax.tree.leaves(rows)[0].shape[0]
    source = random.Independent() if noise is None else noise
    if key is None and sampler.num_noises and noise is None:
        raise ValueError(f"{sampler} draws noise: key=None must be a key")
    if sampler.num_noises:
        random.check_steps(source, num_steps)

    each = _calls_at_any_time(denoise_fn, z)
    constant = isinstance(each, int)

    def step(state: Any, numbered_row: Any) -> tuple[Any, Any]:
        number, row = numbered_row
        draws = jnp.zeros((0, *z.shape), z.dtype)
        if sampler.num_noises:
            draws = source.draw(key, number, sampler.num_noises, z)
        seen: list[Array] = []
        denoise = denoise_fn if constant else _noting(denoise_fn, seen)
        state = sampler.step(state, row, draws, denoise)
        nfe = None if constant else _calls_of_step(denoise_fn, seen, row)
        return state, (sampler.output(state) if trajectory else None, nfe)

    numbered = (jnp.arange(num_steps), jax.tree.map(lambda a: _like(a, z), rows))
    state, (outputs, counts) = jax.lax.scan(step, sampler.init(z), numbered)
    if trajectory:
        outputs = jnp.concatenate([z[None], outputs])
    nfe = _evaluations(rows) * each if constant else _number(jnp.sum(counts))
    return Result(sampler.output(state), nfe, outputs)


def sample(
    key: Array | None,
    denoise_fn: DenoiseFn,
    z: Array,
    times: ArrayLike,
    *,
    sampler: Sampler,
    schedule: Schedule,
    noise: Any = None,
    to_data: bool = True,
    trajectory: bool = False,
) -> Result:
    """`plan`, then `run`, then to the data where the grid ends short of it.

    Args:
      key: for the noise; scalar or `[*batch]`. None where the sampler draws none.
      denoise_fn: `(z, t) -> Denoised`.
      z: start, such as `prior(...)`, `[*batch, *event]`.
      times: a grid, `[num_steps + 1]`, falling.
      sampler: any.
      schedule: the one of `denoise_fn`.
      noise: as in `run`.
      to_data: whether to step on to sigma = 0 where `sigma > 0` at the last time. That
        step is DDIM's and returns `x_hat`; it costs one more evaluation. What
        `denoise_fn` knows of the data is then put in (`guidance.inpaint`).
      trajectory: as in `run`.

    Returns:
      `Result`.

    Raises:
      ValueError: `times` is no grid, or `denoise_fn` is singular on it (eps at
        alpha = 0), as given or in the type of `z`.

    Example:
      >>> from diffusionflow import analytic, samplers, schedules
      >>> flow = schedules.FlowMatching()
      >>> denoise_fn = analytic.gaussian(jnp.zeros(()), 0.25).denoise_fn(flow)
      >>> result = sample(
      ...     jax.random.key(0), denoise_fn, jnp.array([2.0]), grids.uniform(100),
      ...     sampler=samplers.Heun("u"), schedule=flow,
      ... )
      >>> print(jnp.round(result.x, 3), result.nfe)  # exactly sqrt(1/4) 2
      [1.] 199
    """
    times = as_grid(grids.check_grid(times))
    check_denoiser(denoise_fn, times[:-1], at_least_float32(z))
    rows = plan(sampler, times, schedule)
    result = run(
        key, denoise_fn, z, rows, sampler=sampler, noise=noise, trajectory=trajectory
    )
    if not to_data:
        return result
    return _finish(_to_data(result, denoise_fn, times[-1], schedule), denoise_fn)


def _finish(result: Result, denoise_fn: DenoiseFn) -> Result:
    if not hasattr(denoise_fn, "finish"):
        return result
    x, states = denoise_fn.finish(result.x), result.trajectory
    return Result(x, result.nfe, None if states is None else states.at[-1].set(x))


def _to_data(
    result: Result, denoise_fn: DenoiseFn, t: ArrayLike, schedule: Schedule
) -> Result:
    sigma = in_float64(lambda schedule, t: schedule.sigma(t), schedule, t)
    level = jnp.asarray(t, result.x.dtype)
    if not is_traced(sigma) and sigma == 0:
        return result
    more = calls(denoise_fn, level)
    if not is_traced(sigma):
        x, nfe = denoise_fn(result.x, level).x, _number(result.nfe + more)
    else:
        last = lambda z: denoise_fn(z, level).x
        x = jax.lax.cond(sigma > 0, last, lambda z: z, result.x)
        nfe = result.nfe + jnp.where(sigma > 0, more, 0)
    states = result.trajectory
    if states is not None:
        states = jnp.concatenate([states, x[None]])
    return Result(x, nfe, states)


def _calls_at_any_time(denoise_fn: DenoiseFn, z: Array) -> int | None:
    """Network calls of an evaluation; None where they depend on its time."""
    found = []
    note = lambda t: found.append(calls(denoise_fn, t))
    jax.eval_shape(note, jax.ShapeDtypeStruct((), z.dtype))
    return found[0] if isinstance(found[0], int) else None


def _like(column: ArrayLike, z: Array) -> Array:
    column = jnp.asarray(column)
    floating = jnp.issubdtype(column.dtype, jnp.floating)
    return column.astype(z.dtype) if floating else column


def _noting(denoise_fn: DenoiseFn, seen: list[Array]) -> DenoiseFn:
    """`denoise_fn`, which puts the times it is called at into `seen`."""

    def denoise(z: Array, t: Array) -> Any:
        seen.append(t)
        return denoise_fn(z, t)

    return denoise


def _calls_of_step(denoise_fn: DenoiseFn, seen: list[Array], row: Any) -> Array:
    """Network calls of one step that contains evaluations at the times `seen`.

    The times are columns of the row, so they may be used outside the branch of the
    step in which they were seen.
    """
    made = row.get("calls", len(seen)) if isinstance(row, dict) else len(seen)
    counts = [jnp.where(i < made, calls(denoise_fn, t), 0) for i, t in enumerate(seen)]
    return sum(counts, start=jnp.zeros((), int))


def _evaluations(rows: Any) -> ArrayLike:
    made = rows.get("calls") if isinstance(rows, dict) else None
    if made is None:
        return jax.tree.leaves(rows)[0].shape[0]
    return jnp.sum(made) if is_traced(made) else int(np.sum(made))


def _number(count: ArrayLike) -> ArrayLike:
    """A Python number where it is known."""
    return count if is_traced(count) else int(count)
