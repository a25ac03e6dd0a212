"""What few-step models learn from: teachers' steps, their trajectories, and guidance.

Each target is a constant: no gradient passes it. The optimum on Gaussian data is known
exactly, and with it what a method cannot learn:

- Progressive distillation: the one-step student of an N-step teacher is the product of
  its N steps of DDIM, with their error and no other.
- Consistency training on N levels: DDIM on these levels, 24.7 % too narrow at N = 11 of
  Karras's grid, 0.22 % at N = 1281. So few levels are a bias of the optimum.
- Consistency distillation with an exact teacher: the product of its solver's steps.
- Pairs (noise, sample): the solver that drew them; use Heun or better.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from diffusionflow import grids, predictions, random, samplers
from diffusionflow._dataclass import check_bound, check_finite, check_name, is_traced
from diffusionflow.distillation.jumps import compose_jumps
from diffusionflow.distillation.residuals import as_arrays
from diffusionflow.predictions import (
    AnyKind,
    Denoised,
    DenoiseFn,
    from_denoised,
    per_event,
)
from diffusionflow.samplers import variables
from diffusionflow.schedules import Schedule, as_schedule


def progressive_targets(
    denoise_fn: DenoiseFn,
    z: Array,
    t: Array,
    m: Array,
    s: Array,
    *,
    kind: AnyKind,
    schedule: Schedule,
) -> Array:
    """Finds the prediction whose one DDIM step is two of a teacher: t -> m -> s.

    The student is an ordinary network, trained by `w |predict_fn(z, t) - target|^2`
    from the teacher's parameters. Errors of two kinds differ by a factor, that of
    `predictions.error_ratio`: the usual weights max(SNR, 1) and SNR + 1 are for x, and
    the latter is 1 for v on a variance-preserving schedule. Clipping the target would
    break its exactness.

    Args:
      denoise_fn: `(z, t) -> Denoised`, the teacher (its EMA), of any kind.
      z: noised data at t, `[*batch, *event]`.
      t: times, `[*batch]`, such as from `progressive_times`.
      m: times between, like `t`.
      s: times to land at, like `t`, earlier than `t`.
      kind: prediction type of the student.
      schedule: of both.

    Returns:
      Predictions of `kind`, like `z`; no gradient passes them.

    Raises:
      ValueError: a student of `kind` cannot land there (eps at alpha = 0), or shapes
        disagree.

    Source: Salimans and Ho 2022, arXiv 2202.00512, algorithm 2, there for x.

    Example:
      >>> import jax.numpy as jnp
      >>> from diffusionflow import analytic, schedules
      >>> flow = schedules.FlowMatching()
      >>> teacher = analytic.gaussian(jnp.zeros(1), 0.25).denoise_fn(schedule=flow)
      >>> t, m, s = jnp.array([1.0]), jnp.array([0.5]), jnp.array([0.0])
      >>> print(progressive_targets(
      ...     teacher, jnp.ones((1, 1)), t, m, s, kind="x", schedule=flow
      ... ))
      [[0.2]]
    """
    z, t, s = as_arrays(z, t, s)
    _, _, m = as_arrays(z, t, m)
    settings: Any = dict(kind=kind, schedule=schedule)
    teacher = denoise_fn(z, t)
    level = lambda fn: per_event(fn(m), z)
    z_m = level(schedule.alpha) * teacher.x + level(schedule.sigma) * teacher.eps
    first = from_denoised(teacher, t=t, **settings)
    second = from_denoised(denoise_fn(z_m, m), t=m, **settings)
    target = compose_jumps(first, second, z=z, t=t, m=m, s=s, **settings)
    return jax.lax.stop_gradient(target)


def progressive_times(
    key: Array, shape: tuple[int, ...], *, times: ArrayLike
) -> tuple[Array, Array, Array]:
    """Draws steps of a student whose teacher takes two: `(t, m, s)` on its grid.

    All steps are drawn equally often, that from the first time of the grid too.

    Args:
      key: scalar, or typed keys `[*batch]`.
      shape: of the results.
      times: the teacher's grid, `[2 n + 1]`, falling, such as `grids.uniform(2 n)`.

    Returns:
      t, m and s of `shape`, neighbours on the grid.

    Raises:
      ValueError: the grid has an odd number of steps, or does not fall inside [0, 1].
    """
    if not is_traced(times):
        grids.check_grid(np.asarray(times, float))
    grid = jnp.asarray(times, jnp.result_type(float))
    count = grid.shape[0] - 1
    if count < 2 or count % 2:
        raise ValueError(
            f"times has {count} steps: must be an even number, 2 or more, as a step of "
            "the student is two of the teacher's"
        )
    drawn = jnp.floor(random.uniform(key, shape) * (count // 2)).astype(jnp.int32)
    return grid[2 * drawn], grid[2 * drawn + 1], grid[2 * drawn + 2]


def solver_step(
    denoise_fn: DenoiseFn,
    z: Array,
    t: Array,
    s: Array,
    *,
    schedule: Schedule,
    variable: str | None = None,
) -> Array:
    """Takes one step of a teacher's ODE, with times of its own for each example.

    Args:
      denoise_fn: `(z, t) -> Denoised`, the teacher.
      z: noised data at t, `[*batch, *event]`.
      t: times, `[*batch]`.
      s: earlier times, like `t`, with sigma > 0 for Heun's step.
      schedule: that of the teacher.
      variable: None for a DDIM step; else of Heun's, one of
        `samplers.variables.VARIABLES`: "eps" is EDM's, "u" is finite from alpha = 0.

    Returns:
      z at s, like `z`; no gradient passes it.

    Raises:
      ValueError: the variable is unknown, or shapes disagree.
    """
    as_schedule(schedule)
    z, t, s = as_arrays(z, t, s)
    denoised = denoise_fn(z, t)
    name = "x" if variable is None else variable
    check_name("variable", name, variables.VARIABLES)
    row = variables.euler(name, t, s, schedule)
    factor = {key: per_event(value, z) for key, value in row.items()}
    at = factor["z"] * z + factor["x"] * denoised.x + factor["eps"] * denoised.eps
    if variable is not None:
        ratio, gain = variables.ratio_and_gain(name, t, s, schedule)
        slope = _slope(name, denoised, t, schedule)
        slope = slope + _slope(name, denoise_fn(at, s), s, schedule)
        at = per_event(ratio, z) * z + per_event(gain, z) * slope / 2
    return jax.lax.stop_gradient(at)


def _slope(variable: str, denoised: Denoised, t: Array, schedule: Schedule) -> Array:
    a, b = (
        per_event(part, denoised.x) for part in variables.slope(variable, t, schedule)
    )
    return a * denoised.x + b * denoised.eps


def trajectory_pairs(
    key: Array,
    denoise_fn: DenoiseFn,
    shape: tuple[int, ...],
    *,
    times: ArrayLike,
    sampler: Any,
    schedule: Schedule,
) -> Denoised:
    """Draws pairs (sample, noise) of a model: for reflow, and one-step distillation.

    Flow matching on them is 2-rectified flow. A one-step student learns
    `inverse_jump(x, z=z, t=1, s=0)` at `z = sigma_1 eps`. Pairs of guided models are
    not of the law of the data, and the labels belong to them.

    Args:
      key: scalar, or typed keys `[*batch]`: example i is then the same in every batch.
      denoise_fn: `(z, t) -> Denoised`, guided or not.
      shape: of the samples, `[*batch, *event]`.
      times: grid, `[num_steps + 1]`, falling.
      sampler: any; one of second order or more, since its error is learned.
      schedule: that of `denoise_fn`.

    Returns:
      `Denoised(x, eps)`, samples and standard normal noise, `[*batch, *event]`.

    Raises:
      ValueError: as `samplers.sample`.

    Source: Liu et al. 2022, arXiv 2209.03003; Luhman and Luhman 2021,
    arXiv 2101.02388.
    """
    noise_key, sampler_key = random.split(key)
    eps = random.normal(noise_key, shape)
    first = jnp.asarray(times)[0]
    start = jnp.asarray(schedule.sigma(first), eps.dtype) * eps
    result = samplers.sample(
        sampler_key, denoise_fn, start, times, sampler=sampler, schedule=schedule
    )
    return jax.lax.stop_gradient(Denoised(result.x, eps))


def guided_source(
    source: Denoised,
    conditional: Denoised,
    unconditional: Denoised,
    *,
    scale: ArrayLike,
    kappa: ArrayLike = 0.0,
) -> Denoised:
    """Mixes guidance into what a network is trained on, so that it needs none later.

    `omega source + kappa conditional + (1 - omega - kappa) unconditional` with
    `omega = scale (1 - kappa)`: with `conditional` the prediction of the very network,
    the fixed point is guidance of `scale`, whatever kappa is. kappa > 0 puts the
    network's own conditional mean in place of the single pair, which lowers the
    variance. MeanFlow's numbers are omega and kappa; improved MeanFlow's w is
    `scale = w` with `kappa = 1 - 1 / w`.

    Drop labels by a draw of each example, as `times.Two` draws s = t: where the first
    examples of a batch get both, the unconditional network never sees s < t.

    Args:
      source: the pair x and eps, `[*batch, *event]` each.
      conditional: of the network at (z, t) with its label, on the diagonal.
      unconditional: without it.
      scale: scalar or `[*batch]`, of classifier-free guidance; 1 for none.
      kappa: scalar or `[*batch]`, in [0, 1).

    Returns:
      `Denoised`; no gradient passes it. The same mixture of rates is the tangent.

    Raises:
      ValueError: shapes disagree, or a number is out of bounds.

    Source: Geng et al. 2025, arXiv 2505.13447, section on guidance, and
    arXiv 2512.02012.
    """
    like = source.x
    for part in jax.tree.leaves((source, conditional, unconditional)):
        predictions.check_same_shape("x or eps", part, "the source", like)
    check_finite("scale", scale)
    check_bound("kappa", kappa, lambda kappa: 0 <= kappa < 1, "in [0, 1)")
    scale, kappa = (
        per_event(jnp.asarray(part, like.dtype), like, name)
        for part, name in ((scale, "scale"), (kappa, "kappa"))
    )
    omega = scale * (1 - kappa)
    mix = lambda pair, positive, negative: (
        omega * pair + kappa * positive + (1 - omega - kappa) * negative
    )
    return jax.lax.stop_gradient(jax.tree.map(mix, source, conditional, unconditional))
