"""Checks of users' own parts, before anything is written: each with one line."""

import contextlib
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffusionflow import predictions, random, samplers, schedules
from diffusionflow._numeric import in_float64
from experiments.runtime.errors import UsageError


@contextlib.contextmanager
def keeping(where: str) -> Iterator[None]:
    """Turns any error of a user's part inside into a `UsageError` of one line."""
    try:
        yield
    except UsageError:
        raise
    except Exception as error:
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        reason = " ".join(f"{kind}{error}".split())[:300]
        raise UsageError(f"{where}: {reason}") from error


def check_schedule(where: str, schedule: Any) -> None:
    """Checks that alpha and sigma can be evaluated and that the log-SNR falls.

    Raises:
      UsageError: it is no schedule, or rises.
    """
    with keeping(where):
        schedules.as_schedule(schedule)
        t = np.linspace(0.02, 0.98, 25)
        logsnr = in_float64(lambda schedule, t: schedule.logsnr(t), schedule, t)
        if not (np.diff(logsnr) < 0).all():
            raise UsageError(
                f"{where}: {schedule!r}: the log-SNR must fall from t = 0 (data) to "
                "t = 1 (noise); for functions of the other direction write 1 - t"
            )


def check_weighting(where: str, weighting: Any, schedule: schedules.Schedule) -> None:
    """Checks that a weighting has a kind and gives a number.

    Raises:
      UsageError: it has not.
    """
    if not hasattr(weighting, "kind"):
        raise UsageError(
            f"{where}: {weighting!r} has no kind, the prediction type whose squared "
            "error it weighs; subclass diffusionflow.weightings.Weighting"
        )
    with keeping(where):
        np.shape(weighting(0.5, schedule=schedule))


def check_density(where: str, density: Any, schedule: schedules.Schedule) -> None:
    """Checks that a time distribution has a density and can be sampled.

    Raises:
      UsageError: it has not.
    """
    lacking = [name for name in ("density", "sample") if not hasattr(density, name)]
    if lacking:
        raise UsageError(
            f"{where}: {density!r} has no {' and no '.join(lacking)}: must be a time "
            "distribution; subclass diffusionflow.times.InverseTransform"
        )
    with keeping(where):
        density.density(0.5, schedule=schedule)


def check_coupling(where: str, coupling: Any) -> None:
    """Traces a user's coupling on four examples.

    Raises:
      UsageError: it fails, or returns no x and eps of the shapes that it was given.
    """
    x = jax.ShapeDtypeStruct((4, 3), jnp.float32)
    labels = jax.ShapeDtypeStruct((4,), jnp.int32)

    def pairs(x: jax.Array, eps: jax.Array, labels: jax.Array) -> Any:
        found = coupling(random.example_keys(0, jnp.arange(4)), x, eps, labels)
        return found.x, found.eps

    with keeping(where):
        for found in jax.eval_shape(pairs, x, x, labels):
            if found.shape != x.shape:
                raise UsageError(
                    f"{where}: gives an array of shape {found.shape}: must return "
                    f"diffusionflow.couplings.Pairs with x and eps of {x.shape}"
                )


def check_sampler(
    where: str, sampler: Any, times: np.ndarray, schedule: schedules.Schedule
) -> None:
    """Plans a user's sampler on a grid, and traces a run of it.

    Raises:
      UsageError: a method is missing, or takes or returns something else.
    """

    def run(key: jax.Array, z: jax.Array) -> jax.Array:
        zero = lambda z, t: predictions.Denoised(jnp.zeros_like(z), jnp.zeros_like(z))
        return samplers.sample(
            key, zero, z, times, sampler=sampler, schedule=schedule
        ).x

    z = jax.ShapeDtypeStruct((2, 3), jnp.float32)
    with keeping(where):
        found = jax.eval_shape(run, jax.random.key(0), z)
        if found.shape != z.shape:
            raise UsageError(
                f"{where}: samples of shape {found.shape} from noise of {z.shape}"
            )


def check_network(where: str, model: Any, params: Any) -> None:
    """Traces a user's network on a batch of two, with all the times that it takes.

    Args:
      where: config entry, for errors.
      model: with the network.
      params: shapes of its parameters.

    Raises:
      UsageError: it fails, or its output has another shape than its input.
    """
    z = jax.ShapeDtypeStruct((2, *model.event_shape), jnp.float32)
    label = jax.ShapeDtypeStruct((2,), jnp.int32)
    vector = None
    if model.vector_features:
        vector = jax.ShapeDtypeStruct((2, model.vector_features), jnp.float32)

    times = [jnp.full(2, time) for time in ((0.5, 0.2) if model.two_times else (0.5,))]

    def predict(params: Any, z: Any, label: Any, vector: Any) -> Any:
        return model.predict_fn(params, label, vector=vector)(z, *times)

    with keeping(where):
        found = jax.eval_shape(predict, params, z, label, vector)
        if getattr(found, "shape", None) != z.shape:
            raise UsageError(
                f"{where}: its output of shape {getattr(found, 'shape', found)} must "
                f"have the shape of its input, {z.shape}"
            )
