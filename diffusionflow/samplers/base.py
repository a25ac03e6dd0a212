"""Interface of samplers, and their common `plan`, `run` and `sample`.

A sampler has `num_noises` and four methods:

- `plan(t, s, schedule)`: the steps from times `t` to `s`, `[num_steps]` each, as a
  pytree of arrays with leading axis `num_steps`, or more where the sampler takes steps
  that are not in the grid (`Restart`). A column `calls` counts the
  evaluations of `denoise_fn` in each step; without it there is one, or NFE are not
  known. The times that
  `step` hands to `denoise_fn` are columns too, and of the evaluations that it contains
  the first `calls` are those that are made.
- `init(z)`: the state that `run` carries, made from the first `z`.
- `step(state, row, noise, denoise_fn)`: one step with its row of the plan and noise
  `[num_noises, *z.shape]`.
- `output(state)`: the `z` in a state.

The plan is data: one compiled `run` serves every schedule, grid and coefficient. A plan
of concrete numbers is NumPy float64 and compiles nothing.

A sampler of your own is a class with these, registered by `diffusionflow.register`:
`docs/extending.md` has one.
"""

from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from diffusionflow import grids, random
from diffusionflow._dataclass import check_instance, is_traced
from diffusionflow._numeric import in_float64
from diffusionflow.predictions import DenoiseFn, Denoiser, as_data, as_denoiser
from diffusionflow.samplers.nfe import Counter, as_number
from diffusionflow.samplers.steps import as_grid, check_sampler, check_times, table
from diffusionflow.schedules import Schedule, as_schedule


class Sampler(Protocol):
    """Interface of a sampler; see the module."""

    @property
    def num_noises(self) -> int:
        """Arrays of noise that a step takes."""
        ...

    def plan(self, t: Array, s: Array, schedule: Schedule) -> Any:
        """Computes the steps from `t` to `s`, a pytree of arrays `[num_steps, ...]`."""

    def init(self, z: Array, /) -> Any:
        """Returns the state of a run that starts from `z`."""

    def step(self, state: Any, row: Any, noise: Array, denoise_fn: DenoiseFn, /) -> Any:
        """Takes a step with its row of the plan; returns the new state."""

    def output(self, state: Any, /) -> Array:
        """Returns the `z` in a state."""


class Result(NamedTuple):
    """Samples, with their NFE and trajectory.

    Fields:
      x: the samples, `[*batch, *event]`.
      nfe: NFE, the number of function evaluations: network calls, guidance and second
        stages included. None where `denoise_fn` is a function whose calls are unknown;
        `predictions.as_denoiser(fn, num_network_calls=...)` declares them.
      trajectory: the states from the first `z` to `x`, `[num_states, *batch, *event]`,
        or None.
    """

    x: Array
    nfe: int | Array | None
    trajectory: Array | None


def prior(
    key: Array, shape: tuple[int, ...], *, schedule: Schedule, t: ArrayLike = 1.0
) -> Array:
    """Samples the noise that samplers start from, `sigma_t N(0, I)`.

    Args:
      key: scalar, or typed keys `[*batch]` where `shape` is `[*batch, *event]`.
      shape: of the result.
      schedule: gives sigma.
      t: scalar, the first time of the grid.

    Returns:
      Array of `shape`. Where `alpha_t > 0` this is not exactly the law of `z_t`: the
      data term `alpha_t x` is left out.
    """
    noise = random.normal(key, shape)
    return jnp.asarray(as_schedule(schedule).sigma(t), noise.dtype) * noise


def plan(sampler: Sampler, times: ArrayLike, *, schedule: Schedule) -> Any:
    """Computes the coefficients and noise levels of every step.

    Args:
      sampler: any.
      times: timestep schedule (sampling grid), `[num_steps + 1]`, falling.
      schedule: any.

    Returns:
      A pytree with leading axis `num_steps`: NumPy float64 where all is concrete,
      traced arrays elsewhere.

    Raises:
      ValueError: `times` is no grid, or `sampler` or `schedule` is something else.
    """
    return table(check_sampler(sampler), as_grid(grids.check_grid(times)), schedule)


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
    """Runs a sampler: one scan over the rows of its plan.

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
      ValueError: a key is missing, `noise` is for another number of steps, `z` is of
        integers, or `sampler` or `denoise_fn` is something else.

    Example: one compilation for every plan of as many steps.
      >>> from diffusionflow import predictions, samplers, schedules
      >>> flow = schedules.FlowMatching()
      >>> denoise_fn = predictions.denoiser(lambda z, t: -z, kind="u", schedule=flow)
      >>> draw = jax.jit(samplers.run)
      >>> before = draw._cache_size()
      >>> for churn in (0.0, 0.5):
      ...     sampler = samplers.Churn(churn)
      ...     rows = samplers.plan(sampler, grids.uniform(10), schedule=flow)
      ...     result = draw(
      ...         jax.random.key(0), denoise_fn, jnp.ones((4, 2)), rows, sampler=sampler
      ...     )
      >>> draw._cache_size() - before
      1
    """
    check_sampler(sampler, ("init", "step", "output"))
    z = as_data(z, "z")
    denoiser = as_denoiser(denoise_fn, like=z)
    num_steps = jax.tree.leaves(rows)[0].shape[0]
    source: Any = random.Independent() if noise is None else noise
    check_instance("noise", noise, "random.Independent()")
    if key is None and sampler.num_noises and noise is None:
        raise ValueError(
            f"key=None: {sampler} takes a random key, also where it adds no noise; "
            "pass a key such as jax.random.key(0)"
        )
    if sampler.num_noises:
        random.check_steps(source, num_steps)
    counter = Counter(denoiser, rows, z.dtype)

    def step(state: Any, numbered_row: Any) -> tuple[Any, Any]:
        number, row = numbered_row
        draws = jnp.zeros((0, *z.shape), z.dtype)
        if sampler.num_noises:
            draws = source.draw(key, number, sampler.num_noises, z)
        state = sampler.step(state, row, draws, counter)
        calls = counter.calls_of_step(row)
        return state, (sampler.output(state) if trajectory else None, calls)

    numbered = (jnp.arange(num_steps), jax.tree.map(lambda a: _like(a, z), rows))
    state, (outputs, calls) = jax.lax.scan(step, sampler.init(z), numbered)
    if trajectory:
        outputs = jnp.concatenate([z[None], outputs])
    nfe = counter.total(rows, calls)
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
    """Samples along a timestep schedule: `plan`, `run`, and a last step to the data.

    Args:
      key: for the noise; scalar or `[*batch]`. None where the sampler draws none.
      denoise_fn: `(z, t) -> Denoised`.
      z: start, such as `prior(...)`, `[*batch, *event]`.
      times: timestep schedule (sampling grid), `[num_steps + 1]`, falling.
      sampler: any.
      schedule: the one of `denoise_fn`.
      noise: as in `run`.
      to_data: whether to step on to sigma = 0 where `sigma > 0` at the last time. That
        step is DDIM's and returns `x_hat`; it costs one more evaluation. The samples
        are then finalized (`Denoiser.finalize`, such as the known pixels of
        `guidance.inpaint`).
      trajectory: as in `run`.

    Returns:
      `Result`.

    Raises:
      ValueError: as `run`; `times` is no grid, `denoise_fn` belongs to another
        schedule, or it is singular on the grid (eps at alpha = 0), as given or in the
        type of `z`.

    Example: jitted, so that a loop compiles it once.
      >>> from diffusionflow import analytic, samplers, schedules
      >>> flow = schedules.FlowMatching()
      >>> denoise_fn = analytic.gaussian(jnp.zeros(()), 0.25).denoise_fn(schedule=flow)
      >>> @jax.jit
      ... def draw(key, z):
      ...     return samplers.sample(
      ...         key, denoise_fn, z, grids.uniform(100),
      ...         sampler=samplers.Heun("u"), schedule=flow,
      ...     )
      >>> for seed in range(3):
      ...     result = draw(jax.random.key(seed), jnp.array([2.0]))
      >>> print(jnp.round(result.x, 3), result.nfe)  # exactly sqrt(1/4) 2
      [1.] 199
    """
    check_sampler(sampler)
    times = as_grid(grids.check_grid(times))
    z = as_data(z, "z")
    denoiser = as_denoiser(denoise_fn, like=z, schedule=as_schedule(schedule))
    check_times(denoiser, times[:-1], z)
    rows = table(sampler, times, schedule)
    result = run(
        key, denoiser, z, rows, sampler=sampler, noise=noise, trajectory=trajectory
    )
    if not to_data:
        return result
    result = step_to_data(result, denoiser, times[-1], schedule)
    x, states = denoiser.finalize(result.x), result.trajectory
    if states is not None and x is not result.x:
        states = states.at[-1].set(x)
    return Result(x, result.nfe, states)


def step_to_data(
    result: Result, denoiser: Denoiser, t: ArrayLike, schedule: Schedule
) -> Result:
    """Steps from the last time to x_hat, with one more evaluation, where sigma > 0."""
    sigma = in_float64(lambda schedule, t: schedule.sigma(t), schedule, t)
    level = jnp.asarray(t, result.x.dtype)
    if not is_traced(sigma) and sigma == 0:
        return result
    more = denoiser.num_network_calls(level)
    if not is_traced(sigma):
        x = denoiser(result.x, level).x
    else:
        last = lambda z: denoiser(z, level).x
        x = jax.lax.cond(sigma > 0, last, lambda z: z, result.x)
        more = None if more is None else jnp.where(sigma > 0, more, 0)
    before = result.nfe
    nfe = None if before is None or more is None else as_number(before + more)
    states = result.trajectory
    if states is not None:
        states = jnp.concatenate([states, x[None]])
    return Result(x, nfe, states)


def _like(column: ArrayLike, z: Array) -> Array:
    column = jnp.asarray(column)
    floating = jnp.issubdtype(column.dtype, jnp.floating)
    return column.astype(z.dtype) if floating else column
