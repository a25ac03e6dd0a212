"""Checks that your own schedule, weighting, sampler or denoiser follows its protocol.

Each function raises an `AssertionError` that says what does not hold; call them in the
tests of your project. They need nothing but the value: the reference is the definition,
and for samplers the exact distribution of Gaussian data.

Example:
  >>> from diffusionflow import samplers, schedules, testing, weightings
  >>> testing.check_schedule(schedules.Cosine())
  >>> testing.check_weighting(weightings.MinSNR(5.0))
  >>> testing.check_sampler(samplers.Heun("u"), order=2)
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffusionflow import (
    analytic,
    grids,
    predictions,
    random,
    samplers,
    schedules,
    weightings,
)
from diffusionflow._numeric import in_float64
from diffusionflow.predictions import DenoiseFn, Denoiser
from diffusionflow.schedules import Schedule


def check_schedule(schedule: Schedule) -> None:
    """Checks a schedule: falling log-SNR, inverse, derivatives, `jit`, pytree.

    Args:
      schedule: an instance of a subclass of `schedules.Schedule`.

    Raises:
      AssertionError: something does not hold.
    """
    schedules.as_schedule(schedule)
    t = np.linspace(0.02, 0.98, 49)
    for name in ("alpha", "sigma", "logsnr"):
        shape = np.shape(getattr(schedule, name)(t))
        _holds(shape == t.shape, f"{name}(t) has the shape of t")
    at = lambda name, t: in_float64(  # also where it is written with jax.numpy
        lambda schedule, t: getattr(schedule, name)(t), schedule, t
    )
    alpha, sigma, logsnr = (at(name, t) for name in ("alpha", "sigma", "logsnr"))
    _holds(np.all((alpha >= 0) & (sigma >= 0)), "alpha and sigma are at least 0")
    _close(logsnr, 2 * np.log(alpha / sigma), "logsnr is 2 log(alpha / sigma)", 1e-6)
    _holds(np.all(np.diff(logsnr) < 0), "the log-SNR falls with t")
    _close(at("inverse_logsnr", logsnr), t, "inverse_logsnr inverts logsnr", 1e-6)
    step = 1e-5
    for name, value in zip(("alpha", "sigma"), at("derivatives", t), strict=True):
        slope = (at(name, t + step) - at(name, t - step)) / (2 * step)
        _close(value, slope, f"derivatives has the slope of {name}", 1e-4)
    rate = at("dlogsnr_dt", t) * sigma**2
    _close(rate, -at("g2", t), "g2 is -sigma^2 dlogsnr_dt", 1e-4)
    for name in ("alpha", "sigma"):
        ends = at(name, np.array([0.0, 1.0]))
        _holds(np.all(np.isfinite(ends)), f"{name} is finite at t = 0 and t = 1")
    _check_pytree(schedule)
    jitted = jax.jit(lambda schedule, t: (schedule.alpha(t), schedule.sigma(t)))
    traced = jitted(schedule, jnp.asarray(t, jnp.float32))
    _close(np.stack(traced), np.stack([alpha, sigma]), "jit gives the same", 1e-4)


def check_weighting(weighting: Any, *, schedule: Schedule | None = None) -> None:
    """Checks a weighting: kind, shape, sign, closed form on eps, `jit`, pytree.

    The factor must be a function of each time alone, at least 0 and finite inside
    (0, 1), and not 0 everywhere. A closed form `on_eps` must be the factor on the
    squared error of `kind`, converted to the eps-MSE.

    Args:
      weighting: an instance of a subclass of `weightings.Weighting`.
      schedule: that it is used with; flow matching by default.

    Raises:
      AssertionError: something does not hold.
    """
    schedule = schedules.FlowMatching() if schedule is None else schedule
    try:
        kind = predictions.as_kind(weighting.kind)
    except (AttributeError, TypeError, ValueError) as error:
        raise AssertionError(
            f"does not hold: kind is a prediction type, whose error it weighs: {error}"
        ) from error
    factor_fn = lambda weighting, schedule, t: weighting(t, schedule=schedule)
    t = np.linspace(0.02, 0.98, 49)
    factor = in_float64(factor_fn, weighting, schedule, t)
    _holds(np.shape(factor) == t.shape, "the factor has the shape of t")
    grid = in_float64(factor_fn, weighting, schedule, t.reshape(7, 7))
    alone = in_float64(factor_fn, weighting, schedule, t[:1].reshape(()))
    _holds(np.shape(alone) == (), "the factor at a scalar t is a scalar")
    _holds(np.all(np.isfinite(factor)), "the factor is finite inside (0, 1)")
    _holds(np.all(factor >= 0), "the factor is at least 0")
    _holds(np.any(factor > 0), "the factor is not 0 everywhere")
    _close(np.ravel(grid), factor, "the factor at a time depends on it alone", 1e-9)
    _close(alone, factor[0], "the factor at a time depends on it alone", 1e-9)
    _check_on_eps(weighting, kind, t, factor, schedule)
    _check_pytree(weighting)
    traced = jax.jit(factor_fn)(weighting, schedule, jnp.asarray(t, jnp.float32))
    _close(traced, factor, "jit gives the same", 1e-3)


def _check_on_eps(
    weighting: Any, kind: Any, t: np.ndarray, factor: np.ndarray, schedule: Schedule
) -> None:
    """Compares the closed form on the eps-MSE with the factor, converted."""
    ratio_fn = lambda schedule, t: predictions.error_ratio(
        kind, predictions.as_kind("eps"), t, schedule=schedule
    )
    converted = factor * in_float64(ratio_fn, schedule, t)
    on_eps_fn = lambda weighting, schedule, t: weightings.weight_on(
        weighting, predictions.as_kind("eps"), t, schedule=schedule
    )
    on_eps = in_float64(on_eps_fn, weighting, schedule, t)
    _close(on_eps, converted, "on_eps is the factor on the eps-MSE", 1e-6)


def check_sampler(sampler: Any, *, order: float = 1.0, num_steps: int = 24) -> None:
    """Checks a sampler: plan, NFE, `jit`, and convergence to the exact distribution.

    On Gaussian data a sampler is linear in z and in its noise, so the standard
    deviation of its samples is known without sampling. Its error must fall with the
    number of steps at the given order, on a finite interval of log-SNR.

    Args:
      sampler: an instance.
      order: claimed order of convergence; 1 for every consistent sampler.
      num_steps: of the coarser of the two grids, times 2 for the finer.

    Raises:
      AssertionError: something does not hold.
    """
    samplers.steps.check_sampler(sampler)
    _check_pytree(sampler)
    flow = schedules.FlowMatching()
    data = analytic.gaussian(jnp.zeros(()), 0.25)
    rows = samplers.plan(sampler, grids.uniform(5), schedule=flow)
    for leaf in jax.tree.leaves(rows):
        _holds(not isinstance(leaf, jax.Array), "a concrete plan is NumPy's")
        _holds(np.shape(leaf)[:1] == (5,), "columns of a plan have 5 rows for 5 steps")
        _holds(np.all(np.isfinite(leaf)), "a plan from t = 1 to t = 0 is finite")
    _check_count(sampler, rows)
    errors = [_std_error(sampler, count, data) for count in (num_steps, 2 * num_steps)]
    if errors[1] > 1e-6:
        slope = np.log2(errors[0] / errors[1])
        _holds(
            slope >= order - 0.3,
            f"the error of the standard deviation falls at order {order}: it went from "
            f"{errors[0]:.3g} to {errors[1]:.3g} with twice the steps, order "
            f"{slope:.2f}",
        )


def check_denoiser(
    denoise_fn: DenoiseFn, z: jax.Array, *, schedule: Schedule, t: float = 0.5
) -> None:
    """Checks a denoiser: its result, `z = alpha x + sigma eps`, NFE, `jit`.

    Samplers call it with one time for all, losses and bounds with a time for each
    example: the result for an example must depend on its own time alone.

    Args:
      denoise_fn: a denoiser or a function.
      z: noised data that it takes, `[batch, *event]`, at least two examples; as many
        as the event's last axis finds times that are multiplied to the wrong axis.
      schedule: that it belongs to.
      t: a time at which it can be evaluated.

    Raises:
      AssertionError: something does not hold.
      ValueError: the result is not `Denoised`, or it belongs to another schedule.
    """
    denoiser = predictions.as_denoiser(denoise_fn, like=z, schedule=schedule)
    denoised = denoiser(z, t)
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    mixed = alpha * denoised.x + sigma * denoised.eps
    _close(mixed, z, "z = alpha x_hat + sigma eps_hat", 1e-3)
    _check_times_of_examples(denoiser, z, t, denoised.x)
    traced = jax.jit(denoiser)(z, jnp.float32(t))
    _close(traced.x, denoised.x, "jit gives the same", 1e-3)
    denoiser.check_times(np.array([t]))
    _holds(denoiser.finalize(z).shape == z.shape, "finalize keeps the shape")
    calls = denoiser.num_network_calls(t)
    _holds(
        calls is None or (np.ndim(calls) == 0 and calls >= 0),
        f"num_network_calls(t) is a count or None, not {calls!r}",
    )
    if isinstance(denoise_fn, Denoiser):
        _check_pytree(denoise_fn)


def _check_times_of_examples(
    denoiser: Denoiser, z: jax.Array, t: float, x: jax.Array
) -> None:
    """Checks one time for the first half of the examples and another for the second."""
    second: Any = np.arange(len(z)) >= len(z) / 2
    times = np.where(second, 0.9 * t, t).astype(z.dtype)
    way_out = "write predictions.per_event(scale, z) for what depends on t"
    try:
        both = denoiser(z, times).x
    except (TypeError, ValueError) as error:
        raise AssertionError(
            f"does not hold: t may be [batch]: {error}; {way_out}"
        ) from error
    expected = jnp.where(predictions.per_event(second, z), denoiser(z, 0.9 * t).x, x)
    _close(both, expected, f"each example sees its own time ({way_out})", 1e-3)


def _std_error(sampler: Any, num_steps: int, data: Any) -> float:
    """Computes the error of samples' standard deviation, float64, without sampling."""
    schedule = schedules.Cosine(logsnr_min=-6.0, logsnr_max=6.0)
    with jax.enable_x64(True):
        denoise_fn = data.denoise_fn(schedule=schedule)
        rows = samplers.plan(sampler, grids.uniform(num_steps), schedule=schedule)

        def end(z: jax.Array, noise: jax.Array) -> jax.Array:
            source = random.Recorded(noise) if sampler.num_noises else None
            result = samplers.run(
                None, denoise_fn, z, rows, sampler=sampler, noise=source
            )
            return result.x

        noise = jnp.zeros((num_steps, sampler.num_noises))
        gain, weights = jax.jit(jax.grad(end, argnums=(0, 1)))(jnp.zeros(()), noise)
        start, last = (
            0.25 * schedule.alpha(t) ** 2 + schedule.sigma(t) ** 2 for t in (1.0, 0.0)
        )
        std = np.sqrt(float(gain) ** 2 * start + float((weights**2).sum()))
    return float(abs(std - np.sqrt(last)))


def _check_count(sampler: Any, rows: Any) -> None:
    calls = []

    def predict_fn(z: jax.Array, t: jax.Array) -> jax.Array:
        jax.debug.callback(lambda t: calls.append(float(t)), t)
        return -z

    flow = schedules.FlowMatching()
    denoise_fn = predictions.denoiser(predict_fn, kind="u", schedule=flow)
    key = jax.random.key(0) if sampler.num_noises else None
    result = samplers.run(key, denoise_fn, jnp.ones((2,)), rows, sampler=sampler)
    jax.block_until_ready(result.x)
    jax.effects_barrier()
    _holds(
        result.nfe == len(calls),
        f"nfe is {result.nfe}, but the network was called {len(calls)} times; give the "
        "plan a column calls",
    )


def _check_pytree(value: Any) -> None:
    flat: Any = jax.tree.flatten(value)
    leaves, structure = flat
    _holds(
        not any(leaf is value for leaf in leaves),
        f"{type(value).__name__} is registered by @diffusionflow.register",
    )
    _holds(
        structure == jax.tree.structure(jax.tree.unflatten(structure, leaves)),
        "it can be rebuilt from its leaves",
    )


def _close(value: Any, expected: Any, what: str, tolerance: float) -> None:
    error = np.max(np.abs(np.asarray(value) - expected) / (1 + np.abs(expected)))
    _holds(error <= tolerance, f"{what}: off by {error:.3g}, more than {tolerance}")


def _holds(true: Any, what: str) -> None:
    if not true:
        raise AssertionError(f"does not hold: {what}")
